//! Image references, as Docker reads and shows them.
//!
//! `busybox` is short for `docker.io/library/busybox:latest`. A [`Reference`] always holds the full form; its
//! `Display` is the familiar short one. The grammar is that of the distribution project's `reference` package.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The registry that a name without one means.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The old name of the same registry, which Docker still replaces.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// The folder of images that a name without a folder means, on the default registry.
const DEFAULT_FOLDER: &str = "library/";
/// The tag that a name with neither tag nor digest means.
const DEFAULT_TAG: &str = "latest";
/// The longest repository name (domain and path), as in the distribution project.
const MAX_NAME: usize = 255;
/// The longest tag, from the same grammar.
const MAX_TAG: usize = 128;

/// A normalised reference: a repository with a tag, a digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// The repository name has capital letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository name is too long.
    #[error("invalid reference format: repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// 64 hexadecimal digits would be taken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The part behind `@` is no digest.
    #[error("invalid reference format: bad digest in {text:?}")]
    Digest {
        /// The whole reference.
        text: String,
        /// What is wrong with its digest.
        #[source]
        source: DigestError,
    },
}

impl Reference {
    /// Parses a reference as a user writes it and fills in what was left out.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.len() == 64 && Digest::from_hex(text).is_ok() {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { text: shown(text), source })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (domain, path) = split_domain(name);
        check_path(&path, text)?;
        if !valid_domain(&domain) || tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(ReferenceError::Format(shown(text)));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Reference { domain, path, tag, digest })
    }

    /// The registry, `docker.io` where none was named.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on its registry, `library/busybox` for `busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; absent only where the reference names a digest and no tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest behind the `@`, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository in its familiar form, without tag and digest: the REPOSITORY column of `images`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(DEFAULT_FOLDER) {
            // `library/a/b` would be read back as `docker.io/a/b`.
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The full form, registry and all.
    pub fn canonical(&self) -> String {
        self.with_suffix(format!("{}/{}", self.domain, self.path))
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// Keeps what an error repeats short.
fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|letter| letter.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{DEFAULT_FOLDER}{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn check_path(path: &str, text: &str) -> Result<(), ReferenceError> {
    if path.chars().any(|letter| letter.is_ascii_uppercase()) {
        let name = path.strip_prefix(DEFAULT_FOLDER).unwrap_or(path);
        return Err(ReferenceError::Uppercase(shown(name)));
    }
    if path.split('/').all(valid_component) { Ok(()) } else { Err(ReferenceError::Format(shown(text))) }
}

/// Lower-case letters and digits, separated by one dot, one or two underscores, or any number of hyphens.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&byte| alphanumeric(byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn valid_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG
        && bytes.first().is_some_and(|&first| word(first))
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = if domain.starts_with('[') {
        match domain.split_once(']') {
            Some((address, "")) => (&address[1..], None),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (&address[1..], Some(port)),
                None => return false,
            },
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    if domain.starts_with('[') {
        return !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    }
    host.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.with_suffix(self.familiar_name()))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.canonical())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Reference, ReferenceError> {
        Reference::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_and_shown_short() {
        for (text, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("host:5000/a/b:tag", "host:5000/a/b:tag", "host:5000/a/b:tag"),
            ("ghcr.io/a__b/c-_d", "", ""), // mixed separators
            ("a/b--c/d__e.f:V_1.2-x", "docker.io/a/b--c/d__e.f:V_1.2-x", "a/b--c/d__e.f:V_1.2-x"),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
        ] {
            match Reference::parse(text) {
                Ok(reference) => {
                    assert_eq!(reference.canonical(), canonical, "{text}");
                    assert_eq!(reference.to_string(), familiar, "{text}");
                    assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
                }
                Err(_) => assert_eq!(canonical, "", "{text}"),
            }
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let reference = Reference::parse(&format!("host:5000/a/b@sha256:{HEX}")).unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.digest().unwrap().hex(), HEX);
        let both = Reference::parse(&format!("busybox:1@sha256:{HEX}")).unwrap();
        assert_eq!(both.to_string(), format!("busybox:1@sha256:{HEX}"));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "A",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b:c",
            "a b",
            "a:\u{1b}",
            "host.:5000/a",
            "host:port/a",
            "a:.b",
            "[::1/x",
            "a@sha256:12",
            HEX,
            "../a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse(&"a".repeat(300)).is_err());
    }
}
