//! A log that is kept in files: entries are appended, files replaced when they are full, and the position recorded.
//!
//! What a call appends counts when the position says so. Before that, a failure or a crash leaves bytes beyond the
//! recorded length, which are cut off before anything else is written.
//!
//! ```text
//! record "rotating" ─▶ move the files ─▶ make a new one ─▶ record the next generation, of length 0
//! ```
//!
//! Each step can be repeated, so a rotation that was interrupted is finished by whoever comes next.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

use super::LogStream;
use super::attributes::LogAttributes;
use super::compress::Compressor;
use super::config::LogConfig;
use super::encode::Encoder;
use super::files::{LogFiles, end_of_lines};
use super::pieces;
use super::position::{Generation, RunEnd, Shared, State};
use super::record::{Ledger, Record};
use super::stamp::Stamps;
use super::writer::LogWriteError;

/// So much is encoded before it is written: most chunks become one write, or two.
const WRITE_BYTES: usize = 256 * 1024;
/// What a writer keeps of its memory between calls that write little.
const IDLE_BYTES: usize = 16 * 1024;

/// The files, and what is not in them yet.
#[derive(Debug)]
pub(super) struct KeptLog {
    pub(super) shared: Arc<Shared>,
    file: Arc<File>,
    /// Bytes after the recorded length that this process wrote.
    unrecorded: u64,
    /// For each stream, up to where its bytes are in the file or in `lines`.
    consumed: [u64; 2],
    /// For each stream, the start of a line whose end has not come.
    tails: [Vec<u8>; 2],
    /// Entries that are not written yet.
    lines: Vec<u8>,
    /// Kept for its memory.
    scratch: Vec<u8>,
    encoder: Encoder,
    stamps: Stamps,
    max_bytes: Option<u64>,
    compressor: Option<Compressor>,
}

impl KeptLog {
    /// Opens the log as `ledger` says, or takes over one of which no position is `known`.
    pub(super) fn open(
        path: &Path,
        config: &LogConfig,
        attributes: &LogAttributes,
        ledger: &mut Ledger,
        known: bool,
    ) -> Result<KeptLog, LogWriteError> {
        let files = LogFiles::new(path, config.max_files());
        files.remove_leftovers().map_err(LogWriteError::at("clear what was left of", path))?;
        let before = if known { *ledger.record() } else { adopt(&files)? };
        if before.rotating {
            move_files(&files, &before)?;
        }
        let file = files.open_newest().map_err(LogWriteError::at("open", path))?;
        let repaired = if before.rotating { next_generation(&file, &before) } else { cut(&file, &before) };
        let record = repaired.map_err(LogWriteError::at("repair", path))?;
        store(ledger, &files, record)?;

        let file = Arc::new(file);
        let newest = Generation::new(Arc::clone(&file));
        let run_end = RunEnd::default();
        if record.run == 0 {
            // Nothing has run yet: there is nothing to wait for.
            let _ = run_end.set((Arc::clone(&newest), record.length));
        }
        let state = State { newest, length: record.length, run_end, ordered_files: record.ordered_files() };
        let shared = Shared::new(files, config.max_files(), state);
        let mut compressor = config.compress().then(|| Compressor::new(Arc::clone(&shared)));
        if let Some(compressor) = &mut compressor {
            compressor.wake();
        }
        Ok(KeptLog {
            shared,
            file,
            unrecorded: 0,
            consumed: record.offsets,
            tails: [Vec::new(), Vec::new()],
            lines: Vec::new(),
            scratch: Vec::new(),
            encoder: Encoder::new(attributes.json()),
            stamps: Stamps::after(record.last_ns),
            max_bytes: config.max_bytes(),
            compressor,
        })
    }

    /// How much of the stream is held back, since its line is not complete.
    pub(super) fn held_back(&self, stream: LogStream) -> u64 {
        self.tails[stream.index()].len() as u64
    }

    /// Appends what `bytes` completes. After an error, what is recorded and what is held back fit together, and the
    /// stream goes on from where they end.
    pub(super) fn append(
        &mut self,
        ledger: &mut Ledger,
        stream: LogStream,
        bytes: &[u8],
        now_ns: i64,
    ) -> Result<(), LogWriteError> {
        let mut pending = std::mem::take(&mut self.scratch);
        pending.clear();
        pending.extend_from_slice(&self.tails[stream.index()]);
        let result = self.append_entries(ledger, stream, &mut pending, bytes, now_ns);
        match result {
            Ok(()) => std::mem::swap(&mut self.tails[stream.index()], &mut pending),
            Err(_) => self.give_up(ledger),
        }
        self.scratch = pending;
        result
    }

    /// Appends the start of a line whose end will not come.
    pub(super) fn finish_stream(
        &mut self,
        ledger: &mut Ledger,
        stream: LogStream,
        now_ns: i64,
    ) -> Result<(), LogWriteError> {
        let tail = std::mem::take(&mut self.tails[stream.index()]);
        if tail.is_empty() {
            return Ok(());
        }
        let result = self
            .settle(ledger)
            .and_then(|()| self.add(ledger, stream, &tail, now_ns))
            .and_then(|()| self.commit(ledger));
        if result.is_err() {
            self.tails[stream.index()] = tail;
            self.give_up(ledger);
        }
        result
    }

    /// Begins to count the streams from zero.
    pub(super) fn begin_run(&mut self, ledger: &mut Ledger, run: u64) -> Result<(), LogWriteError> {
        self.settle(ledger)?;
        let record = Record { run, offsets: [0, 0], ..*ledger.record() };
        store(ledger, &self.shared.files, record)?;
        self.consumed = record.offsets;
        // Whoever still follows the run before gets what that wrote, and its end.
        self.end_run(ledger);
        self.shared.publish(|state| state.run_end = RunEnd::default());
        Ok(())
    }

    /// Tells the readers that follow that nothing will come after what is recorded.
    pub(super) fn end_run(&self, ledger: &Ledger) {
        self.shared.publish(|state| {
            let _ = state.run_end.set((Arc::clone(&state.newest), ledger.record().length));
        });
    }

    fn append_entries(
        &mut self,
        ledger: &mut Ledger,
        stream: LogStream,
        pending: &mut Vec<u8>,
        bytes: &[u8],
        now_ns: i64,
    ) -> Result<(), LogWriteError> {
        self.settle(ledger)?;
        let mut rest = bytes;
        loop {
            if pending.is_empty() {
                let Some(length) = pieces::entry_length(rest) else { break };
                let (entry, after) = rest.split_at(length);
                self.add(ledger, stream, entry, now_ns)?;
                rest = after;
            } else {
                rest = pieces::complete(pending, rest);
                let Some(length) = pieces::entry_length(pending) else { break };
                self.add(ledger, stream, &pending[..length], now_ns)?;
                pending.drain(..length);
            }
        }
        pending.extend_from_slice(rest);
        self.commit(ledger)
    }

    /// Adds an entry, in the next file when this one is full.
    fn add(
        &mut self,
        ledger: &mut Ledger,
        stream: LogStream,
        entry: &[u8],
        now_ns: i64,
    ) -> Result<(), LogWriteError> {
        if self.is_full(ledger) {
            self.commit(ledger)?;
            store(ledger, &self.shared.files, Record { rotating: true, ..*ledger.record() })?;
            self.finish_rotation(ledger)?;
        }
        if self.stamps.is_disorder(now_ns) && ledger.record().disordered != ledger.record().generation {
            // Known before an entry makes it so: a reader that searches by time must not be misled.
            let disordered = ledger.record().generation;
            store(ledger, &self.shared.files, Record { disordered, ..*ledger.record() })?;
            self.shared.publish(|state| state.ordered_files = 0);
        }
        let stamp = self.stamps.next(now_ns);
        self.encoder.encode(&mut self.lines, stream, entry, stamp);
        self.consumed[stream.index()] += entry.len() as u64;
        if self.lines.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn is_full(&self, ledger: &Ledger) -> bool {
        let length = ledger.record().length + self.unrecorded + self.lines.len() as u64;
        // As with Docker, a file goes beyond its limit by its last entry.
        self.max_bytes.is_some_and(|max_bytes| length >= max_bytes)
    }

    fn flush(&mut self) -> Result<(), LogWriteError> {
        let mut file = &*self.file;
        file.write_all(&self.lines).map_err(LogWriteError::at("append to", self.shared.files.newest()))?;
        self.unrecorded += self.lines.len() as u64;
        if self.lines.len() < IDLE_BYTES {
            self.lines.shrink_to(IDLE_BYTES);
        }
        self.lines.clear();
        Ok(())
    }

    /// Makes what was added count, and tells the readers.
    fn commit(&mut self, ledger: &mut Ledger) -> Result<(), LogWriteError> {
        if self.consumed == ledger.record().offsets {
            return Ok(());
        }
        self.flush()?;
        let before = *ledger.record();
        let record = Record {
            length: before.length + self.unrecorded,
            offsets: self.consumed,
            last_ns: self.stamps.last_ns(),
            ..before
        };
        store(ledger, &self.shared.files, record)?;
        self.unrecorded = 0;
        for (index, tail) in self.tails.iter_mut().enumerate() {
            let recorded =
                usize::try_from(record.offsets[index] - before.offsets[index]).unwrap_or(usize::MAX);
            tail.drain(..recorded.min(tail.len()));
        }
        self.shared.publish(|state| state.length = record.length);
        Ok(())
    }

    /// Forgets what was not recorded.
    fn give_up(&mut self, ledger: &Ledger) {
        self.unrecorded = 0;
        self.lines.clear();
        self.consumed = ledger.record().offsets;
        // For others who read the file. If it cannot be done now, it will be before the next write.
        let _ = cut(&self.file, ledger.record());
    }

    /// Makes the file what the record says, before something is appended to it.
    fn settle(&mut self, ledger: &mut Ledger) -> Result<(), LogWriteError> {
        if ledger.record().rotating {
            self.finish_rotation(ledger)?;
        }
        let path = self.shared.files.newest();
        let length = self.file.metadata().map_err(LogWriteError::at("look at", path))?.len();
        let before = *ledger.record();
        if length == before.length {
            return Ok(());
        }
        let record = cut(&self.file, &before).map_err(LogWriteError::at("repair", path))?;
        if record.length < before.length {
            // Somebody else cut it, as `logrotate` does. To readers it is another file, or they would wait for the end
            // of the old one in the middle of the new.
            store(ledger, &self.shared.files, record)?;
            let next = Generation::new(Arc::clone(&self.file));
            self.shared.publish_next(0, &next, record.length, record.ordered_files());
        }
        Ok(())
    }

    fn finish_rotation(&mut self, ledger: &mut Ledger) -> Result<(), LogWriteError> {
        let shared = Arc::clone(&self.shared);
        let path = shared.files.newest();
        // Until the readers know the new file: one that came in between would read the old one twice.
        let names = shared.lock_names();
        let before = *ledger.record();
        move_files(&shared.files, &before)?;
        let file = shared.files.open_newest().map_err(LogWriteError::at("open", path))?;
        let record = next_generation(&file, &before).map_err(LogWriteError::at("repair", path))?;
        store(ledger, &shared.files, record)?;
        self.file = Arc::new(file);
        let next = Generation::new(Arc::clone(&self.file));
        shared.publish_next(before.length, &next, record.length, record.ordered_files());
        drop(names);
        if let Some(compressor) = &mut self.compressor {
            compressor.wake();
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn finish_compression(&mut self) {
        if let Some(compressor) = &mut self.compressor {
            compressor.finish();
        }
    }
}

fn store(ledger: &mut Ledger, files: &LogFiles, record: Record) -> Result<(), LogWriteError> {
    ledger.store(record).map_err(|source| LogWriteError::Io {
        action: "record the position of",
        path: files.newest().to_owned(),
        source,
    })
}

/// A position for a log that has none, since it is new, or somebody removed it.
fn adopt(files: &LogFiles) -> Result<Record, LogWriteError> {
    let oldest = files.list_rotated().map_err(LogWriteError::at("list the files of", files.newest()))?;
    let generation = oldest.first().map_or(0, |file| u64::from(file.number)) + 1;
    // All that is whole of the newest file; and nothing is known of the times of entries that are there already.
    Ok(Record { generation, disordered: generation, length: u64::MAX, ..Record::default() })
}

/// The part of a rotation that gives files other names, unless that was done.
fn move_files(files: &LogFiles, record: &Record) -> Result<(), LogWriteError> {
    let path = files.newest();
    match fs::metadata(path) {
        // What is shorter is the new file: only files with something in them are replaced.
        Ok(found) if found.len() >= record.length => files.shift().map_err(LogWriteError::at("rotate", path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LogWriteError::at("look at", path)(error)),
    }
}

/// The record of a file that was made by a rotation. It is empty, unless somebody wrote to it.
fn next_generation(file: &File, before: &Record) -> io::Result<Record> {
    cut(file, &Record { generation: before.generation + 1, length: u64::MAX, rotating: false, ..*before })
}

/// Cuts off what is not recorded. When a file is shorter than recorded, its last whole line is its end.
fn cut(file: &File, record: &Record) -> io::Result<Record> {
    let found = file.metadata()?.len();
    let length = if found < record.length { end_of_lines(file, found)? } else { record.length };
    if found > length {
        file.set_len(length)?;
    }
    Ok(Record { length, ..*record })
}
