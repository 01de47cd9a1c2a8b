//! Extended attributes, inline behind their inode.

use super::XATTR_ENTRY;

/// Prefixes that the format stores as a number (`EROFS_XATTR_INDEX_*`).
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Why an attribute cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XattrProblem {
    /// Linux has no such namespace, or the format has none for it.
    #[error("extended attribute namespace is not supported")]
    Namespace,
    /// Nothing follows the namespace, or more than 255 bytes do.
    #[error("extended attribute name is empty or too long")]
    Name,
    /// The value is longer than 65535 bytes.
    #[error("extended attribute value is too long")]
    Value,
}

/// Appends one attribute in its on-disk form.
pub(crate) fn encode_entry(encoded: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), XattrProblem> {
    let (suffix, index) = split(name).ok_or(XattrProblem::Namespace)?;
    let name_length = u8::try_from(suffix.len()).map_err(|_| XattrProblem::Name)?;
    let acl = matches!(index, 2 | 3);
    if acl != suffix.is_empty() {
        return Err(XattrProblem::Name);
    }
    let value_length = u16::try_from(value.len()).map_err(|_| XattrProblem::Value)?;
    encoded.extend_from_slice(&[name_length, index]);
    encoded.extend_from_slice(&value_length.to_le_bytes());
    encoded.extend_from_slice(suffix);
    encoded.extend_from_slice(value);
    encoded.resize(encoded.len().next_multiple_of(XATTR_ENTRY), 0);
    Ok(())
}

/// Encodes several attributes; the names must be unique.
pub(crate) fn encode_entries<'a>(
    xattrs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Box<[u8]>, XattrProblem> {
    let mut encoded = Vec::new();
    for (name, value) in xattrs {
        encode_entry(&mut encoded, name, value)?;
    }
    Ok(encoded.into_boxed_slice())
}

fn split(name: &[u8]) -> Option<(&[u8], u8)> {
    PREFIXES.iter().find_map(|(prefix, index)| name.strip_prefix(*prefix).map(|suffix| (suffix, *index)))
}

/// Reads entries back: pairs of full name and value. `None` if they are malformed.
pub(super) fn decode_entries(mut encoded: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = Vec::new();
    while !encoded.is_empty() {
        let (head, rest) = encoded.split_first_chunk::<XATTR_ENTRY>()?;
        let name_length = usize::from(head[0]);
        let value_length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let prefix = PREFIXES.iter().find(|(_, index)| *index == head[1])?.0;
        let used = (name_length + value_length).next_multiple_of(XATTR_ENTRY);
        let (body, rest) = rest.split_at_checked(used)?;
        let name = [prefix, &body[..name_length]].concat();
        xattrs.push((name, body[name_length..name_length + value_length].to_vec()));
        encoded = rest;
    }
    Some(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip() {
        let xattrs: Vec<(&[u8], &[u8])> = vec![
            (b"user.a", b""),
            (b"trusted.overlay.opaque", b"y"),
            (b"security.capability", &[1, 0, 0, 2, 0]),
            (b"system.posix_acl_access", &[2, 0, 0, 0]),
        ];
        let encoded = encode_entries(xattrs.clone()).unwrap();
        assert_eq!(encoded.len() % 4, 0);
        let decoded = decode_entries(&encoded).unwrap();
        assert!(decoded.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).eq(xattrs));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let encode = |name: &[u8], value: &[u8]| encode_entries([(name, value)]);
        assert_eq!(encode(b"com.apple.provenance", b""), Err(XattrProblem::Namespace));
        assert_eq!(encode(b"user.", b""), Err(XattrProblem::Name));
        assert_eq!(encode(b"system.posix_acl_accessx", b""), Err(XattrProblem::Name));
        assert_eq!(encode(&[b"user.".as_slice(), &[b'a'; 256]].concat(), b""), Err(XattrProblem::Name));
        assert_eq!(encode(b"user.a", &[0; 65536]), Err(XattrProblem::Value));
    }
}
