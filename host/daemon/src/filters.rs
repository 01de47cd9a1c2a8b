//! `filters`: a JSON object of names, each with its values, as a list or (from old clients) as an object of truths.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::query::Query;

/// Filters of a request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Truths(BTreeMap<String, bool>),
}

impl Filters {
    /// Reads them, and refuses names that are not among `known`.
    pub(crate) fn read(query: &Query, known: &[&str]) -> Result<Filters> {
        let read: Option<BTreeMap<String, Values>> =
            query.json("filters").map_err(|_| ApiError::invalid("invalid filter"))?;
        let filters: BTreeMap<_, _> = read
            .unwrap_or_default()
            .into_iter()
            .map(|(name, values)| match values {
                Values::List(list) => (name, list),
                Values::Truths(truths) => {
                    (name, truths.into_iter().filter(|(_, truth)| *truth).map(|(value, _)| value).collect())
                }
            })
            .collect();
        match filters.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(ApiError::invalid(format!("invalid filter '{name}'"))),
            None => Ok(Filters(filters)),
        }
    }

    /// The values of a name; none if it is not filtered by.
    pub(crate) fn get(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether nothing is filtered by.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }

    /// Whether one of the values is `value`, or there are none.
    pub(crate) fn exact(&self, name: &str, value: &str) -> bool {
        !self.has(name) || self.get(name).iter().any(|wanted| wanted == value)
    }

    /// A filter of truths, e.g. `dangling=true`.
    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(name).first() else { return Ok(None) };
        match value.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(false)),
            _ => Err(ApiError::invalid(format!("invalid filter '{name}={value}'"))),
        }
    }

    /// Whether `labels` hold every wanted `name` or `name=value`.
    pub(crate) fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(name).iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
            None => labels.contains_key(wanted),
        })
    }
}
