//! The position: how far a log reaches, and up to which byte of each output.
//!
//! The file has two slots, written in turn, each by one call and with a checksum: should a write be cut short, the
//! other slot still says what was true before it, and nothing more had been acknowledged.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use flate2::Crc;

const MAGIC: &[u8; 8] = b"capslog1";
/// Where the fields end and their checksum is.
const CHECKSUM_AT: usize = 80;
const SLOT_BYTES: usize = 128;
const ROTATING: u64 = 1;

/// What is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Counts the files that the log has had.
    pub(super) generation: u64,
    /// What of the newest file counts.
    pub(super) length: u64,
    /// The run of the container that the offsets belong to.
    pub(super) run: u64,
    /// For each stream, up to where its bytes are in the log.
    pub(super) offsets: [u64; 2],
    /// In this generation or one before it, the clock stepped back: times may not be in order. Zero for never.
    pub(super) disordered: u64,
    /// The time of the last entry.
    pub(super) last_ns: i64,
    /// The newest file is full, and is being replaced.
    pub(super) rotating: bool,
}

impl Record {
    /// Of how many files, the newest among them, the times are surely in order.
    pub(super) fn ordered_files(&self) -> u64 {
        self.generation.saturating_sub(self.disordered)
    }

    /// The slot of the record that is the `sequence`th, which tells the newer of two.
    fn encode(&self, sequence: u64) -> [u8; SLOT_BYTES] {
        let flags = if self.rotating { ROTATING } else { 0 };
        let fields = [
            sequence,
            self.generation,
            self.length,
            self.run,
            self.offsets[0],
            self.offsets[1],
            self.disordered,
            self.last_ns.cast_unsigned(),
            flags,
        ];
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        for (bytes, field) in slot[8..CHECKSUM_AT].chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = checksum(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// A record with its place in the sequence. None when it is not a record, or not whole.
    fn decode(slot: &[u8]) -> Option<(u64, Record)> {
        let (fields, rest) = slot.split_at_checked(CHECKSUM_AT)?;
        let sum = u32::from_le_bytes(*rest.first_chunk()?);
        if checksum(fields) != sum {
            return None;
        }
        let fields = fields.strip_prefix(MAGIC)?;
        let (fields, _) = fields.as_chunks::<8>();
        let field = |index: usize| fields.get(index).map(|bytes| u64::from_le_bytes(*bytes));
        let record = Record {
            generation: field(1)?,
            length: field(2)?,
            run: field(3)?,
            offsets: [field(4)?, field(5)?],
            disordered: field(6)?,
            last_ns: field(7)?.cast_signed(),
            rotating: field(8)? & ROTATING != 0,
        };
        Some((field(0)?, record))
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The file of the position, and what it says.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    /// How many records there were.
    sequence: u64,
    record: Record,
}

impl Ledger {
    /// Opens or makes the file. The second value is false when it held no record, so that the log is new or its
    /// position was lost.
    pub(super) fn open(path: &Path) -> io::Result<(Ledger, bool)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        let newest = read_newest(&file)?;
        let (sequence, record) = newest.unwrap_or_default();
        Ok((Ledger { file, sequence, record }, newest.is_some()))
    }

    /// What a position says that nobody writes to now.
    pub(super) fn read(path: &Path) -> io::Result<Option<Record>> {
        match File::open(path) {
            Ok(file) => Ok(read_newest(&file)?.map(|(_, record)| record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Records `record`. When this fails, what was recorded before still is.
    pub(super) fn store(&mut self, record: Record) -> io::Result<()> {
        let sequence = self.sequence.wrapping_add(1);
        let at = if sequence.is_multiple_of(2) { 0 } else { SLOT_BYTES };
        self.file.write_all_at(&record.encode(sequence), at as u64)?;
        self.sequence = sequence;
        self.record = record;
        Ok(())
    }
}

fn read_newest(file: &File) -> io::Result<Option<(u64, Record)>> {
    let mut slots = [0; 2 * SLOT_BYTES];
    let mut filled = 0;
    while filled < slots.len() {
        match file.read_at(&mut slots[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (first, second) = slots.split_at(SLOT_BYTES);
    let records = [Record::decode(first), Record::decode(second)];
    Ok(records.into_iter().flatten().max_by_key(|(sequence, _)| *sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_record() -> Record {
        Record {
            generation: 3,
            length: 1000,
            run: 2,
            offsets: [77, u64::MAX],
            disordered: 1,
            last_ns: -5,
            rotating: true,
        }
    }

    #[test]
    fn the_newest_whole_record_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let (mut ledger, known) = Ledger::open(&path).unwrap();
        assert!(!known);
        ledger.store(some_record()).unwrap();
        ledger.store(Record { length: 2000, ..some_record() }).unwrap();
        let (ledger, known) = Ledger::open(&path).unwrap();
        assert!(known);
        assert_eq!(ledger.record().length, 2000);
        assert_eq!(ledger.record().offsets, [77, u64::MAX]);

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Ledger::read(&path).unwrap().unwrap().length, 1000, "the newer slot is torn");
        bytes[SLOT_BYTES + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), None);
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), None);
    }
}
