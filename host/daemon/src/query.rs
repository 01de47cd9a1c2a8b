//! Query parameters, as Docker reads them.

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Parameters that are read of one request; more are dropped.
const MAX_PARAMETERS: usize = 256;

/// The parameters of a request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Query {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Query(pairs.into_owned().take(MAX_PARAMETERS).collect())
    }

    /// The first value of that name, if it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every value of that name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Docker's truth: everything but a handful of words (moby, `httputils.BoolValue`).
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        let Some((_, value)) = self.0.iter().find(|(key, _)| key == name) else { return default };
        let value = value.trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| ApiError::invalid(format!("invalid value for {name}: {text:?}")))
    }

    /// A parameter that holds JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed = serde_json::from_str(text);
        parsed.map(Some).map_err(|error| ApiError::invalid(format!("invalid {name}: {error}")))
    }

    /// A moment: seconds since 1970 with up to nine decimals, or RFC 3339.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.text(name).filter(|text| *text != "0") else { return Ok(None) };
        moment(text)
            .map(Some)
            .ok_or_else(|| ApiError::invalid(format!("invalid value for {name:?}: {text:?} is not a time")))
    }
}

/// Digits of a second's fraction that count.
const FRACTION_DIGITS: usize = 9;

pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(parsed) = text.parse::<Timestamp>() {
        return Some(parsed);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > FRACTION_DIGITS || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let padded = format!("{fraction:0<FRACTION_DIGITS$}");
    Timestamp::new(seconds.parse().ok()?, padded.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_true_as_docker_has_it() {
        let query = Query::parse(Some("a=1&b=0&c=&d=False&e=yes&f"));
        let flags: Vec<_> = "abcdefg".chars().map(|name| query.flag(&name.to_string())).collect();
        assert_eq!(flags, [true, false, false, false, true, false, false]);
    }

    #[test]
    fn moments_are_seconds_with_a_fraction_or_rfc_3339() {
        let nanoseconds = |text| moment(text).map(|moment| moment.as_nanosecond());
        assert_eq!(nanoseconds("12"), Some(12_000_000_000));
        assert_eq!(nanoseconds("12.5"), Some(12_500_000_000));
        assert_eq!(nanoseconds("12.000000001"), Some(12_000_000_001));
        assert_eq!(nanoseconds("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        for bad in ["", "x", "1.2.3", "1.-5", "1.1234567890", "99999999999999999999"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }
}
