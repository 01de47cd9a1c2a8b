//! The keys that a user asks for.

use capsid_api::detach::{DEFAULT, parse};

/// Reads a sequence as `ctrl-a,b,ctrl-[`; Docker's if there is none.
pub(crate) fn keys(text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
    parse(text).ok_or_else(|| format!("invalid detach keys ({text})"))
}
