//! PAX extended headers: `LENGTH KEY=VALUE\n` records.

use crate::entry::{Timestamp, Xattr};
use crate::error::{EntryProblem, HeaderProblem};

/// Docker, umoci and BuildKit keep extended attributes under this prefix, values raw.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What one extended header says about the entry behind it. An empty value takes a setting back, as POSIX says.
#[derive(Debug, Default)]
pub(crate) struct PaxHeader {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) xattrs: Vec<Xattr>,
    /// Whatever starts with `GNU.sparse.`, in order: format 0.0 repeats its keys.
    pub(crate) sparse: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first value that could not be read; reported with the entry's name once that is known.
    pub(crate) problem: Option<EntryProblem>,
}

impl PaxHeader {
    pub(crate) fn parse(bytes: &[u8]) -> Result<PaxHeader, HeaderProblem> {
        let mut header = PaxHeader::default();
        for record in Records(bytes) {
            let (key, value) = record?;
            if let Err(problem) = header.set(key, value) {
                header.problem.get_or_insert(problem);
            }
        }
        Ok(header)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), EntryProblem> {
        match key {
            b"path" => self.path = name(value, "path")?,
            b"linkpath" => self.link = name(value, "linkpath")?,
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "uid")?,
            b"gid" => self.gid = number(value, "gid")?,
            b"mtime" => {
                self.mtime = match value {
                    b"" => None,
                    _ => Some(Timestamp::parse(value).ok_or(EntryProblem::Value("mtime"))?),
                }
            }
            _ if key.starts_with(XATTR_PREFIX) => {
                let name = &key[XATTR_PREFIX.len()..];
                if name.is_empty() || name.contains(&0) {
                    return Err(EntryProblem::Value("SCHILY.xattr"));
                }
                self.xattrs.retain(|xattr| xattr.name != name);
                // Docker's and umoci's readers also drop attributes without a value.
                if !value.is_empty() {
                    self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
                }
            }
            _ if key.starts_with(b"GNU.sparse.") => self.sparse.push((key.to_vec(), value.to_vec())),
            _ => {}
        }
        Ok(())
    }
}

/// Refuses a global header that sets what an entry's own header should: some readers apply those to every entry
/// behind it, others (Docker's) ignore them, and an image must not look different to different readers.
pub(crate) fn check_global(bytes: &[u8]) -> Result<(), HeaderProblem> {
    for record in Records(bytes) {
        match record?.0 {
            b"path" => return Err(HeaderProblem::Global("path")),
            b"linkpath" => return Err(HeaderProblem::Global("linkpath")),
            b"size" => return Err(HeaderProblem::Global("size")),
            key if key.starts_with(b"GNU.sparse.") => return Err(HeaderProblem::Global("a sparse map")),
            key if key.starts_with(XATTR_PREFIX) => return Err(HeaderProblem::Global("an attribute")),
            _ => {}
        }
    }
    Ok(())
}

fn name(value: &[u8], key: &'static str) -> Result<Option<Vec<u8>>, EntryProblem> {
    if value.contains(&0) {
        return Err(EntryProblem::Value(key));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(value: &[u8], key: &'static str) -> Result<Option<u64>, EntryProblem> {
    match value {
        b"" => Ok(None),
        _ => decimal(value).map(Some).ok_or(EntryProblem::Value(key)),
    }
}

/// A non-negative decimal number without a sign.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Splits a header into its records; ends for good after an error.
struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(21).position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&self.0[..space])?).ok()?;
        if length <= space + 1 || length > self.0.len() {
            return None;
        }
        let (record, rest) = self.0.split_at(length);
        let (last, record) = record[space + 1..].split_last()?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if *last != b'\n' || key.is_empty() || key.contains(&0) {
            return None;
        }
        self.0 = rest;
        Some((key, value))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), HeaderProblem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(HeaderProblem::PaxRecord))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes_in_their_values() {
        let header = PaxHeader::parse(b"24 SCHILY.xattr.user.a=\0\n\n12 path=a/b\n22 mtime=-1.5000000001\n");
        // The first length is one short on purpose.
        assert_eq!(header.unwrap_err(), HeaderProblem::PaxRecord);
        let header = PaxHeader::parse(b"27 SCHILY.xattr.user.a=\0\n\n\n12 path=a/b\n").unwrap();
        assert_eq!(header.xattrs, vec![Xattr { name: b"user.a".to_vec(), value: b"\0\n\n".to_vec() }]);
        assert_eq!(header.path.unwrap(), b"a/b");
    }

    #[test]
    fn malformed_records_are_refused() {
        for wrong in [
            &b"5 a=b"[..],
            b"6 a=b",
            b"6 a=bX",
            b"0 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"7 =bcd\n",
            b" 6 a=b\n",
            b"6 abc\n",
            b"\n",
            b"-6 a=b\n",
        ] {
            assert!(PaxHeader::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn bad_values_wait_for_the_name() {
        let header = PaxHeader::parse(b"11 size=-1\n").unwrap();
        assert_eq!(header.problem, Some(EntryProblem::Value("size")));
        let header = PaxHeader::parse(b"11 path=a\0\n").unwrap();
        assert_eq!(header.problem, Some(EntryProblem::Value("path")));
    }
}
