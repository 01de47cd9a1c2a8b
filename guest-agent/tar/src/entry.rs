//! What an entry says, extended headers applied.

use crate::pax;
use crate::reader::SparseMap;

/// Seconds since 1970 and nanoseconds past them; the nanoseconds always count forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Below a thousand million.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Reads `-12.345`; digits past the ninth decimal are dropped towards the past.
    pub(crate) fn parse(text: &[u8]) -> Option<Timestamp> {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&text[..dot], &text[dot + 1..]),
            None => (text, &b""[..]),
        };
        let whole = i64::try_from(pax::decimal(whole)?).ok()?;
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = fraction.iter().map(|digit| u32::from(digit - b'0')).chain(std::iter::repeat(0));
        let nanoseconds = digits.take(9).fold(0, |value, digit| value * 10 + digit);
        Some(match (negative, nanoseconds) {
            (false, _) => Timestamp { seconds: whole, nanoseconds },
            (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
            (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
        })
    }
}

/// An extended attribute as the archive gives it; the name is the full one, `user.x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// The full name with its namespace.
    pub name: Vec<u8>,
    /// The value; any bytes.
    pub value: Vec<u8>,
}

/// What an entry is. Link targets are raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of an earlier entry.
    HardLink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice {
        /// Its major number.
        major: u64,
        /// Its minor number.
        minor: u64,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u64,
        /// Its minor number.
        minor: u64,
    },
    /// A folder.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, its extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, raw: not normalised, not checked.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner; may be more than fits a user id.
    pub uid: u64,
    /// The group; likewise.
    pub gid: u64,
    /// When it was changed.
    pub mtime: Timestamp,
    /// Bytes of a regular file once its holes are filled in; 0 for everything else.
    pub size: u64,
    /// Extended attributes, names unique.
    pub xattrs: Vec<Xattr>,
    /// Where its data starts in the stream.
    pub data_offset: u64,
    /// For a sparse file, which stretches of it the data covers.
    pub sparse: Option<SparseMap>,
}
