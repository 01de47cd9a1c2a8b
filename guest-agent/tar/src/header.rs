//! One 512-byte header block: V7, ustar, GNU and star forms.

use crate::error::HeaderProblem;

/// Everything in a tar stream is a multiple of this.
pub(crate) const BLOCK: usize = 512;

/// The fields of a header block, as found; nothing from extended headers is in here.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) kind: u8,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// The area of the old sparse format's map.
    pub(crate) sparse: Vec<u8>,
}

/// Which dialect a block speaks; decides what the bytes behind the name fields mean.
#[derive(PartialEq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Reads a block that is not all zeros.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Header, HeaderProblem> {
        check_sum(block)?;
        let dialect = match &block[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if &magic[..6] == b"ustar\0" && &block[508..512] == b"tar\0" => Dialect::Star,
            magic if &magic[..6] == b"ustar\0" => Dialect::Ustar,
            _ => Dialect::V7,
        };
        let mut name = text(&block[0..100]).to_vec();
        let prefix = match dialect {
            Dialect::Ustar => text(&block[345..500]),
            // Star keeps times where ustar has the end of the prefix.
            Dialect::Star => text(&block[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let (major, minor) = match (dialect, block[156]) {
            (Dialect::V7, _) => (0, 0),
            (_, b'3' | b'4') => (
                unsigned(&block[329..337]).ok_or(HeaderProblem::Number("major"))?,
                unsigned(&block[337..345]).ok_or(HeaderProblem::Number("minor"))?,
            ),
            _ => (0, 0),
        };
        let mode = unsigned(&block[100..108]).ok_or(HeaderProblem::Number("mode"))?;
        Ok(Header {
            name,
            link: text(&block[157..257]).to_vec(),
            mode: u32::try_from(mode & 0o7777).map_err(|_| HeaderProblem::Number("mode"))?,
            uid: unsigned(&block[108..116]).ok_or(HeaderProblem::Number("uid"))?,
            gid: unsigned(&block[116..124]).ok_or(HeaderProblem::Number("gid"))?,
            size: unsigned(&block[124..136]).ok_or(HeaderProblem::Number("size"))?,
            mtime: signed(&block[136..148]).ok_or(HeaderProblem::Number("mtime"))?,
            kind: block[156],
            major,
            minor,
            sparse: if block[156] == b'S' { block[crate::reader::OLD_MAP].to_vec() } else { Vec::new() },
        })
    }
}

/// The sum is over all bytes with the sum's own field as spaces; some old writers added signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), HeaderProblem> {
    let stated = unsigned(&block[148..156]).ok_or(HeaderProblem::Checksum)?;
    let mut sum = 0u64;
    let mut signed_sum = 0i64;
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        sum += u64::from(byte);
        signed_sum += i64::from(byte.cast_signed());
    }
    if stated == sum || i64::try_from(stated) == Ok(signed_sum) {
        Ok(())
    } else {
        Err(HeaderProblem::Checksum)
    }
}

/// A text field ends at its first NUL or fills its place.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between spaces and NULs, or base-256 behind a set top bit.
fn signed(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field).and_then(|value| i64::try_from(value).ok());
    }
    // Two's complement, big-endian; the top bit only marks the form, the next is the sign.
    let negative = field[0] & 0x40 != 0;
    let fill: u8 = if negative { 0xff } else { 0 };
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut bytes = [fill; 8];
    let (extra, low) = field.split_at(field.len().saturating_sub(8));
    bytes[8 - low.len()..].copy_from_slice(low);
    if extra.is_empty() {
        bytes[8 - low.len()] = first;
    } else if first != fill || extra[1..].iter().any(|&byte| byte != fill) {
        return None;
    }
    let value = i64::from_be_bytes(bytes);
    (negative == (value < 0)).then_some(value)
}

/// The same, without a sign.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|value| u64::try_from(value).ok())
}

fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|&byte| byte != b' ' && byte != 0).unwrap_or(field.len());
    let field = &field[start..];
    let end = field.iter().position(|&byte| byte == b' ' || byte == 0).unwrap_or(field.len());
    let (digits, rest) = field.split_at(end);
    if rest.iter().any(|&byte| byte != b' ' && byte != 0) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_form() {
        assert_eq!(signed(b"0000644\0"), Some(0o644));
        assert_eq!(signed(b"   644 \0"), Some(0o644));
        assert_eq!(signed(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(signed(b"77777777777\0"), Some((8 << 30) - 1));
        assert_eq!(signed(b"00064\x0044"), None);
        assert_eq!(signed(b"0000x44\0"), None);
        assert_eq!(signed(b"-0000001"), None);
        assert_eq!(signed(&[0x80, 0, 0, 0, 0, 0, 0, 5]), Some(5));
        assert_eq!(signed(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(8 << 30));
        assert_eq!(signed(&[0xff; 12]), Some(-1));
        assert_eq!(unsigned(&[0xff; 12]), None);
        assert_eq!(signed(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(signed(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
