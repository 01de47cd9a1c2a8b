//! What containers are called: identifiers and names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of randomness in an identifier; twice as many hexadecimal digits, as Docker has them.
const ID_BYTES: usize = 32;
/// Digits of the short form.
const SHORT_DIGITS: usize = 12;
/// The longest name, a limit of ours: it becomes a file name.
const MAX_NAME_BYTES: usize = 200;

/// A container's identifier: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// A new one, from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// When the kernel gives none.
    pub fn generate() -> std::io::Result<ContainerId> {
        let mut bytes = [0; ID_BYTES];
        let mut filled = 0;
        while filled < ID_BYTES {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(ContainerId(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// All digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as people are shown them.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..SHORT_DIGITS]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What is not an identifier or a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Not 64 hexadecimal digits.
    #[error("a container's id is 64 hexadecimal digits")]
    Id,
    /// Not what Docker takes for a name.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Name(String),
}

impl TryFrom<String> for ContainerId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let valid =
            text.len() == 2 * ID_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(ContainerId(text)) } else { Err(NameError::Id) }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

/// A container's name, as Docker allows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A random one of two words. Not unique: the store says whether it is taken.
    ///
    /// # Errors
    ///
    /// When the kernel gives no random numbers.
    pub fn generate() -> std::io::Result<ContainerName> {
        let mut random = [0; 2];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let word = |words: &[&'static str], byte: u8| words[usize::from(byte) % words.len()];
        Ok(ContainerName(format!("{}_{}", word(QUALITIES, random[0]), word(SHAPES, random[1]))))
    }
}

const QUALITIES: &[&str] = &[
    "ample", "brisk", "calm", "candid", "clear", "deft", "eager", "early", "fair", "fleet", "frank",
    "gentle", "glad", "grand", "keen", "kind", "lively", "lucid", "mellow", "merry", "modest", "neat",
    "nimble", "patient", "placid", "plain", "prompt", "quiet", "rapid", "serene", "sober", "solid", "steady",
    "stout", "sunny", "swift", "tidy", "vivid", "warm", "witty",
];
const SHAPES: &[&str] = &[
    "acorn", "amphora", "barrel", "basket", "beaker", "bottle", "bowl", "cabin", "casket", "chest",
    "coconut", "cocoon", "conch", "crate", "cradle", "drum", "flask", "hamper", "helix", "hull", "husk",
    "jar", "kernel", "lantern", "locket", "nest", "nutshell", "orb", "pod", "pouch", "prism", "satchel",
    "shell", "sphere", "thimble", "trunk", "urn", "vessel", "vial", "walnut",
];

impl FromStr for ContainerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let valid = text.len() >= 2
            && text.len() <= MAX_NAME_BYTES
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(inner);
        if valid { Ok(ContainerName(text.to_owned())) } else { Err(NameError::Name(text.to_owned())) }
    }
}

impl TryFrom<String> for ContainerName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> String {
        name.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_64_digits_and_differs_from_the_next() {
        let (one, other) = (ContainerId::generate().unwrap(), ContainerId::generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(ContainerId::try_from(one.to_string()), Ok(one.clone()));
        assert_eq!(one.short().len(), 12);
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert_eq!(ContainerId::try_from(bad.to_owned()), Err(NameError::Id), "{bad}");
        }
    }

    #[test]
    fn names_are_what_docker_takes() {
        for good in ["web", "a1", "0b", "my.app_1-x", "/web"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "-web", ".web", "a/b", "a b", "ä1", "../../etc", &"a".repeat(201)] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
        assert!(ContainerName::generate().unwrap().as_str().parse::<ContainerName>().is_ok());
    }
}
