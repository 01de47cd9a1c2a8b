//! The read-only disk that is composed of layer files: each becomes a partition, in order, behind a GUID partition
//! table that exists only here. Nothing is copied.
//!
//! ```text
//!  sector 0        1       2 … 63         64 KiB
//! ├ protective ─┬ GPT ──┬ entries ─┬ … ──┼ layer 0 ─┬ layer 1 ─┬ … ─┬ entries ─┬ GPT ┤
//!   MBR           header                    each starts on 4 KiB      the backup
//! ```

use std::fs::File;
use std::io;

use super::chain::Pieces;
use crate::memory;

const SECTOR: u64 = 512;
/// What layers are whole multiples of, and partitions start on.
const ALIGNMENT: u64 = 4096;
/// Where the first partition starts: behind the largest table, aligned generously.
const FIRST_PARTITION: u64 = 64 << 10;

// The format (UEFI 2.10, 5.3).
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 92;
const MIN_ENTRIES: usize = 128;
const REVISION_1_0: u32 = 0x1_0000;
/// "Linux filesystem data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is stored.
const LINUX_DATA: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];
/// First half of the disk's and the partitions' own GUIDs; the second half is a number.
const OWN_PREFIX: [u8; 8] = *b"capsid\x40\x40";
const PROTECTIVE: u8 = 0xee;

/// A disk of layers.
#[derive(Debug)]
pub struct LayerDisk {
    /// Ascending; what lies between them is zeros.
    extents: Vec<Extent>,
    bytes: u64,
}

#[derive(Debug)]
struct Extent {
    start: u64,
    bytes: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Table(Vec<u8>),
    Layer(File),
}

impl LayerDisk {
    /// Lays out the files. They must not change or shrink as long as this lives.
    ///
    /// # Errors
    ///
    /// A file is empty, no multiple of 4096 bytes, or cannot be asked.
    pub fn new(layers: Vec<File>) -> io::Result<LayerDisk> {
        let mut extents = Vec::with_capacity(layers.len() + 2);
        let mut end = FIRST_PARTITION;
        for (index, file) in layers.into_iter().enumerate() {
            let bytes = file.metadata()?.len();
            if bytes == 0 || bytes % ALIGNMENT != 0 {
                let message = format!("layer {index} has {bytes} bytes, which is no multiple of {ALIGNMENT}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            extents.push(Extent { start: end, bytes, source: Source::Layer(file) });
            end = end.checked_add(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        Ok(LayerDisk::with_tables(extents, end))
    }

    fn with_tables(mut extents: Vec<Extent>, end: u64) -> LayerDisk {
        let entries = entries(&extents);
        let entry_sectors = entries.len() as u64 / SECTOR;
        let bytes = (end + entries.len() as u64 + SECTOR).next_multiple_of(ALIGNMENT);
        let last = bytes / SECTOR - 1;
        let header = |here: u64, other: u64, table: u64| Header {
            here,
            other,
            table,
            first_usable: FIRST_PARTITION / SECTOR,
            last_usable: end / SECTOR - 1,
            entry_count: entries.len() / ENTRY_BYTES,
            entries_sum: crc32(&entries),
        };
        let mut front = protective_mbr(last);
        front.extend(header(1, last, 2).to_sector());
        front.extend(&entries);
        let backup = last - entry_sectors;
        let mut back = entries.clone();
        back.extend(header(last, 1, backup).to_sector());
        extents.insert(0, Extent { start: 0, bytes: front.len() as u64, source: Source::Table(front) });
        extents.push(Extent {
            start: backup * SECTOR,
            bytes: back.len() as u64,
            source: Source::Table(back),
        });
        LayerDisk { extents, bytes }
    }

    /// The disk's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `pieces` from `offset` on; what lies behind the end is the caller's to refuse.
    pub(super) fn read(&self, mut pieces: Pieces<'_>, mut offset: u64) -> io::Result<()> {
        let mut index = self.extents.partition_point(|extent| extent.start + extent.bytes <= offset);
        while pieces.len() > 0 {
            let Some(extent) = self.extents.get(index) else {
                pieces.clear();
                break;
            };
            if offset < extent.start {
                let gap = pieces.take_front(extent.start - offset);
                offset += gap.len();
                gap.clear();
                continue;
            }
            let within = offset - extent.start;
            let part = pieces.take_front(extent.bytes - within);
            offset += part.len();
            extent.read(part, within)?;
            index += 1;
        }
        Ok(())
    }
}

impl Extent {
    fn read(&self, mut part: Pieces<'_>, offset: u64) -> io::Result<()> {
        match &self.source {
            Source::Table(bytes) => {
                part.write(&bytes[memory::to_usize(offset)..]);
                Ok(())
            }
            Source::Layer(file) => read_exact(file, part, offset),
        }
    }
}

/// Reads until all is filled.
pub(super) fn read_exact(file: &File, mut pieces: Pieces<'_>, mut offset: u64) -> io::Result<()> {
    while pieces.len() > 0 {
        let count = memory::read_at(file, pieces.as_slices(), offset)? as u64;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pieces.take_front(count);
        offset += count;
    }
    Ok(())
}

struct Header {
    here: u64,
    other: u64,
    table: u64,
    first_usable: u64,
    last_usable: u64,
    entry_count: usize,
    entries_sum: u32,
}

impl Header {
    /// UEFI 2.10, 5.3.2.
    fn to_sector(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(memory::to_usize(SECTOR));
        bytes.extend(b"EFI PART");
        bytes.extend(REVISION_1_0.to_le_bytes());
        bytes.extend(u32::try_from(HEADER_BYTES).unwrap_or(0).to_le_bytes());
        bytes.extend([0; 8]); // the sum, for now, and reserved
        for number in [self.here, self.other, self.first_usable, self.last_usable] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(own_guid(0));
        bytes.extend(self.table.to_le_bytes());
        for number in [self.entry_count, ENTRY_BYTES] {
            bytes.extend(u32::try_from(number).unwrap_or(0).to_le_bytes());
        }
        bytes.extend(self.entries_sum.to_le_bytes());
        let sum = crc32(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(memory::to_usize(SECTOR), 0);
        bytes
    }
}

/// UEFI 2.10, 5.3.3. At least 128, as partitioning tools expect, and whole sectors of them.
fn entries(layers: &[Extent]) -> Vec<u8> {
    let count = layers.len().max(MIN_ENTRIES).next_multiple_of(memory::to_usize(SECTOR) / ENTRY_BYTES);
    let mut bytes = vec![0; count * ENTRY_BYTES];
    for (number, (entry, layer)) in (1..).zip(bytes.chunks_exact_mut(ENTRY_BYTES).zip(layers)) {
        entry[..16].copy_from_slice(&LINUX_DATA);
        entry[16..32].copy_from_slice(&own_guid(number));
        entry[32..40].copy_from_slice(&(layer.start / SECTOR).to_le_bytes());
        entry[40..48].copy_from_slice(&((layer.start + layer.bytes) / SECTOR - 1).to_le_bytes());
    }
    bytes
}

fn own_guid(number: u64) -> [u8; 16] {
    let mut guid = [0; 16];
    guid[..8].copy_from_slice(&OWN_PREFIX);
    guid[8..].copy_from_slice(&number.to_be_bytes());
    guid
}

/// One partition over everything, for tools that do not know better (UEFI 2.10, 5.2.3).
fn protective_mbr(last_sector: u64) -> Vec<u8> {
    let mut bytes = vec![0; memory::to_usize(SECTOR)];
    let entry = &mut bytes[446..462];
    entry[..8].copy_from_slice(&[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    entry[12..].copy_from_slice(&u32::try_from(last_sector).unwrap_or(u32::MAX).to_le_bytes());
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// The CRC of ISO 3309, as GPT wants it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            #[allow(clippy::cast_possible_truncation)] // below 256
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |sum: u32, byte| TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8))
}

#[cfg(test)]
mod tests;
