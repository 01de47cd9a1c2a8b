//! `--filter name=value`, as the API takes it.

use std::collections::BTreeMap;

/// All filters in one document; nothing without any.
pub(crate) fn document(filters: &[String]) -> Result<Option<String>, String> {
    let mut values: BTreeMap<String, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in filters {
        let (name, value) = filter.split_once('=').ok_or_else(|| {
            format!("invalid argument {filter:?} for \"-f, --filter\" flag: invalid filter '{filter}'")
        })?;
        values.entry(name.trim().to_lowercase()).or_default().insert(value.trim(), true);
    }
    Ok((!values.is_empty()).then(|| serde_json::to_string(&values).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_one_name_are_together() {
        let filters = ["status=exited", "label=a=b", "Status=paused"].map(str::to_owned);
        let expected = r#"{"label":{"a=b":true},"status":{"exited":true,"paused":true}}"#;
        assert_eq!(document(&filters), Ok(Some(expected.to_owned())));
        assert_eq!(document(&[]), Ok(None));
        assert!(document(&["bare".to_owned()]).is_err());
    }
}
