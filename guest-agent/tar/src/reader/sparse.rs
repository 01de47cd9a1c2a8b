//! Sparse files: the maps of GNU tar's four formats.
//!
//! A map is believed only if its stretches are in order, do not overlap, lie inside the file and together are
//! exactly as long as the data that is stored.

use super::{TarInput, TarReader};
use crate::entry::{Entry, EntryKind};
use crate::error::{EntryProblem, TarError};
use crate::escape::EscapedName;
use crate::header::{self, BLOCK};
use crate::pax::decimal;

/// Where the old format has its first four stretches in a header block; after them comes a flag for more, then
/// the file's real size.
pub(crate) const OLD_MAP: std::ops::Range<usize> = 386..495;
/// One stretch in the old format: two numbers of twelve bytes.
const OLD_EXTENT: usize = 24;
/// Stretches in a block of continuation.
const OLD_MORE: usize = 21;

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes it has, at least one.
    pub length: u64,
}

/// The stretches in order, without overlap, inside the file.
pub type SparseMap = Vec<Extent>;

/// What extended headers say about a sparse file.
#[derive(Default)]
struct Records<'a> {
    version: (Option<u64>, Option<u64>),
    name: Option<&'a [u8]>,
    size: Option<u64>,
    numbers: Vec<u64>,
}

impl<R: TarInput> TarReader<R> {
    /// Reads the map of a sparse entry and corrects the entry's size and name by it. Data of a reader at the entry
    /// then is only what the map covers.
    pub(super) fn read_sparse_map(
        &mut self,
        entry: &mut Entry,
        old: Option<&[u8]>,
        records: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), TarError> {
        let shown = EscapedName::new(&entry.path);
        let refuse = || TarError::Entry { entry: shown.clone(), problem: EntryProblem::SparseMap };
        if entry.kind != EntryKind::File || old.is_some() != records.is_empty() {
            return Err(refuse());
        }
        let (size, numbers) = match old {
            Some(area) => self.old_map(area)?.ok_or_else(refuse)?,
            None => {
                let parsed = parse_records(records).ok_or_else(refuse)?;
                if let Some(name) = parsed.name {
                    entry.path = name.to_vec();
                }
                let numbers = match parsed.version {
                    (Some(1), Some(0)) => self.stored_map()?.ok_or_else(refuse)?,
                    (None, None) | (Some(0), Some(0 | 1)) => parsed.numbers,
                    _ => return Err(refuse()),
                };
                (parsed.size.ok_or_else(refuse)?, numbers)
            }
        };
        entry.sparse = Some(check(&numbers, size, self.remaining).ok_or_else(refuse)?);
        entry.size = size;
        entry.data_offset = self.offset;
        Ok(())
    }

    /// Format 1.0: the map is text in front of the data, padded to a block.
    fn stored_map(&mut self) -> Result<Option<Vec<u64>>, TarError> {
        let mut text = Vec::new();
        loop {
            if text.len() as u64 + BLOCK as u64 > self.limits.max_extension_bytes {
                return Ok(None);
            }
            let before = text.len();
            self.take_data(&mut text, BLOCK)?;
            if text.len() - before != BLOCK {
                return Ok(None);
            }
            // The count comes first, so the end is known as soon as enough lines are there.
            let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let mut numbers = text.split(|&byte| byte == b'\n').map(decimal);
            if lines == 0 {
                continue;
            }
            let Some(wanted) = numbers.next().flatten().and_then(|count| count.checked_mul(2)) else {
                return Ok(None);
            };
            if lines > wanted {
                return Ok(numbers.take(usize::try_from(wanted).unwrap_or(0)).collect());
            }
        }
    }

    /// The oldest format: in the header, continued in blocks that do not count as data.
    fn old_map(&mut self, area: &[u8]) -> Result<Option<(u64, Vec<u64>)>, TarError> {
        let number = |field: &[u8]| header::unsigned(field);
        let mut fields: Vec<u8> = area[..4 * OLD_EXTENT].to_vec();
        let mut more = area[4 * OLD_EXTENT] != 0;
        let size = number(&area[4 * OLD_EXTENT + 1..]);
        while more {
            let Some(block) = self.block()? else {
                return Err(TarError::Truncated { offset: self.offset });
            };
            if fields.len() as u64 > self.limits.max_extension_bytes {
                return Ok(None);
            }
            fields.extend_from_slice(&block[..OLD_MORE * OLD_EXTENT]);
            more = block[OLD_MORE * OLD_EXTENT] != 0;
        }
        let used = fields.chunks(OLD_EXTENT).take_while(|extent| extent[0] != 0);
        let numbers: Option<Vec<u64>> =
            used.flat_map(|extent| [number(&extent[..12]), number(&extent[12..])]).collect();
        Ok(size.zip(numbers))
    }
}

fn parse_records(records: &[(Vec<u8>, Vec<u8>)]) -> Option<Records<'_>> {
    let mut parsed = Records::default();
    for (key, value) in records {
        match key.strip_prefix(b"GNU.sparse.")? {
            b"major" => parsed.version.0 = Some(decimal(value)?),
            b"minor" => parsed.version.1 = Some(decimal(value)?),
            b"name" if value.contains(&0) || value.is_empty() => return None,
            b"name" => parsed.name = Some(value),
            b"size" | b"realsize" => parsed.size = Some(decimal(value)?),
            b"map" if !value.is_empty() => {
                parsed.numbers = value.split(|&byte| byte == b',').map(decimal).collect::<Option<_>>()?;
            }
            // Format 0.0 repeats the two in turn.
            b"offset" if parsed.numbers.len() % 2 == 0 => parsed.numbers.push(decimal(value)?),
            b"numbytes" if parsed.numbers.len() % 2 == 1 => parsed.numbers.push(decimal(value)?),
            b"map" | b"numblocks" => {}
            _ => return None,
        }
    }
    Some(parsed)
}

fn check(numbers: &[u64], size: u64, stored: u64) -> Option<SparseMap> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    let mut end = 0;
    let mut total = 0u64;
    let mut map = Vec::with_capacity(pairs.len());
    for &[offset, length] in pairs {
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        total = total.checked_add(length)?;
        if length > 0 {
            map.push(Extent { offset, length });
        }
    }
    (rest.is_empty() && end <= size && total == stored && size <= i64::MAX.unsigned_abs()).then_some(map)
}
