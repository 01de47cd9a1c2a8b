//! Versions of the Engine API.

use std::fmt;
use std::str::FromStr;

/// A version of the API, as `1.50` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 until now.
    pub major: u16,
    /// Counts up with what is added.
    pub minor: u16,
}

/// The oldest version that is spoken: the oldest that Docker 28 speaks.
pub const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The newest version that is spoken: that of Docker 28.2.
pub const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 50 };

/// Not a version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a version of the API: {0:?}")]
pub struct NotAVersion(String);

impl FromStr for ApiVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        let (major, minor) = parts.ok_or_else(|| NotAVersion(text.chars().take(32).collect()))?;
        Ok(ApiVersion { major, minor })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let version = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(version("1.9") < OLDEST && version("1.100") > NEWEST && version("2.0") > NEWEST);
        assert_eq!(version("1.50").to_string(), "1.50");
        for bad in ["", "1", "1.", ".1", "1.2.3", "v1.2", "1.+2", "1.-2", "1.99999999"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }
}
