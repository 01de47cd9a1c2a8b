//! Writes archives as Docker's daemon does: ustar headers, with a PAX header in front wherever a field is too small
//! for what it must hold.

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use crate::entry::{Entry, EntryKind, Timestamp};
use crate::header::BLOCK;
use crate::pax::XATTR_PREFIX;

/// Where each field of a ustar header is (POSIX pax, "ustar Interchange Format").
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const KIND: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
}

/// The name of the entry that carries a PAX header. Readers that know PAX never show it.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";

/// Writes entries one after another.
///
/// Each [`TarWriter::entry`] is followed by exactly the data that it announced, then comes the next or
/// [`TarWriter::finish`]. An archive that is not finished lacks its end marker, by which a reader can tell.
#[derive(Debug)]
pub struct TarWriter<W> {
    output: W,
    /// Data of the current entry that is still to come.
    remaining: u64,
    /// Zeros behind that data.
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// A writer at the start of an archive.
    pub fn new(output: W) -> TarWriter<W> {
        TarWriter { output, remaining: 0, padding: 0 }
    }

    /// Writes an entry's headers. What an archive cannot hold is left out: attributes whose name has a `=` or a zero
    /// byte, or whose value is empty, which readers take for "remove it". A map of holes is not written.
    ///
    /// # Errors
    ///
    /// The output's. [`io::ErrorKind::InvalidInput`] for a name that is empty or has a zero byte, and while data of
    /// the entry before is missing.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "data of the entry before is missing"));
        }
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        let link = link_of(&entry.kind);
        if path.is_empty() || path.contains(&0) || link.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name that no archive can hold"));
        }
        let records = records(entry, &path, link);
        if !records.is_empty() {
            self.output.write_all(&pax_block(records.len()))?;
            self.output.write_all(&records)?;
            self.output.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        self.output.write_all(&block(entry, &path, link))?;
        self.remaining = data_bytes(entry);
        self.padding = padding(self.remaining);
        Ok(())
    }

    /// Writes data of the current entry.
    ///
    /// # Errors
    ///
    /// The output's; [`io::ErrorKind::InvalidInput`] for more than the entry announced.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(remaining) = self.remaining.checked_sub(bytes.len() as u64) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more data than the entry announced"));
        };
        self.output.write_all(bytes)?;
        self.remaining = remaining;
        if remaining == 0 {
            self.output.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])?;
        }
        Ok(())
    }

    /// Data of the current entry that is still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Writes the end marker.
    ///
    /// # Errors
    ///
    /// The output's; [`io::ErrorKind::InvalidInput`] while data of the last entry is missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.remaining > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "data of the last entry is missing"));
        }
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Only files have data.
fn data_bytes(entry: &Entry) -> u64 {
    if entry.kind == EntryKind::File { entry.size } else { 0 }
}

fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn link_of(kind: &EntryKind) -> &[u8] {
    match kind {
        EntryKind::HardLink(target) | EntryKind::Symlink(target) => target,
        _ => b"",
    }
}

/// What the header's fields cannot hold, in the order of the keys.
fn records(entry: &Entry, path: &[u8], link: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    for xattr in &entry.xattrs {
        if !xattr.value.is_empty() && !xattr.name.iter().any(|byte| matches!(byte, b'=' | 0)) {
            append(&mut records, &[XATTR_PREFIX, &xattr.name].concat(), &xattr.value);
        }
    }
    if !fits(field::GID, entry.gid) {
        append(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    if !is_plain(link) {
        append(&mut records, b"linkpath", link);
    }
    if entry.mtime.nanoseconds > 0 || !fits_signed(field::MTIME, entry.mtime.seconds) {
        append(&mut records, b"mtime", decimal(entry.mtime).as_bytes());
    }
    if !is_plain(path) {
        append(&mut records, b"path", path);
    }
    if !fits(field::SIZE, data_bytes(entry)) {
        append(&mut records, b"size", data_bytes(entry).to_string().as_bytes());
    }
    if !fits(field::UID, entry.uid) {
        append(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    records
}

/// Whether a name may stand in a header as it is: the meaning of bytes beyond ASCII is not settled there.
fn is_plain(name: &[u8]) -> bool {
    name.len() <= field::NAME.len() && name.is_ascii()
}

/// A number has octal digits in all but the field's last byte.
fn fits(field: std::ops::Range<usize>, value: u64) -> bool {
    value >> (3 * (field.len() - 1)) == 0
}

fn fits_signed(field: std::ops::Range<usize>, value: i64) -> bool {
    u64::try_from(value).is_ok_and(|value| fits(field, value))
}

/// Seconds as PAX writes them; before 1970 the nanoseconds count away from zero, too.
fn decimal(time: Timestamp) -> String {
    let (sign, seconds, nanoseconds) = match time {
        Timestamp { seconds: 0.., nanoseconds } => ("", time.seconds.unsigned_abs(), nanoseconds),
        Timestamp { seconds, nanoseconds: 0 } => ("-", seconds.unsigned_abs(), 0),
        Timestamp { seconds, nanoseconds } => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    format!("{sign}{seconds}.{}", format!("{nanoseconds:09}").trim_end_matches('0'))
}

/// Appends one `LENGTH KEY=VALUE\n`, whose length counts itself.
fn append(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + b" =\n".len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn pax_block(size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block, field::NAME, PAX_NAME);
    put_number(&mut block, field::MODE, 0o644);
    for owner in [field::UID, field::GID, field::MTIME] {
        put_number(&mut block, owner, 0);
    }
    put_number(&mut block, field::SIZE, size as u64);
    seal(&mut block, b'x');
    block
}

fn block(entry: &Entry, path: &[u8], link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block, field::NAME, path);
    put(&mut block, field::LINK, link);
    let (kind, type_bits, (major, minor)) = match entry.kind {
        EntryKind::File => (b'0', 0o100_000, (0, 0)),
        EntryKind::HardLink(_) => (b'1', 0o100_000, (0, 0)),
        EntryKind::Symlink(_) => (b'2', 0o120_000, (0, 0)),
        EntryKind::CharacterDevice { major, minor } => (b'3', 0o020_000, (major, minor)),
        EntryKind::BlockDevice { major, minor } => (b'4', 0o060_000, (major, minor)),
        EntryKind::Directory => (b'5', 0o040_000, (0, 0)),
        EntryKind::Fifo => (b'6', 0o010_000, (0, 0)),
    };
    // Docker has the type in the mode, too, and clients that compare archives expect it there.
    put_number(&mut block, field::MODE, u64::from(entry.mode & 0o7777 | type_bits));
    put_number(&mut block, field::UID, entry.uid);
    put_number(&mut block, field::GID, entry.gid);
    put_number(&mut block, field::SIZE, data_bytes(entry));
    put_number(&mut block, field::MTIME, u64::try_from(entry.mtime.seconds).unwrap_or(0));
    put_number(&mut block, field::MAJOR, major);
    put_number(&mut block, field::MINOR, minor);
    seal(&mut block, kind);
    block
}

/// Text as far as the field goes; a PAX record has all of it.
fn put(block: &mut [u8; BLOCK], field: std::ops::Range<usize>, text: &[u8]) {
    let shown = text.len().min(field.len());
    block[field.start..field.start + shown].copy_from_slice(&text[..shown]);
}

/// A number that does not fit is in a PAX record, and the field says zero.
fn put_number(block: &mut [u8; BLOCK], field: std::ops::Range<usize>, value: u64) {
    let digits = field.len() - 1;
    let value = if fits(field.clone(), value) { value } else { 0 };
    put(block, field, format!("{value:0digits$o}").as_bytes());
}

/// Type, magic, and the sum of all, which counts its own field as spaces.
fn seal(block: &mut [u8; BLOCK], kind: u8) {
    block[field::KIND] = kind;
    put(block, field::MAGIC, b"ustar\x0000");
    block[field::CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    put(block, field::CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
}
