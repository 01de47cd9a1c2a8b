//! The one who writes a log.

use std::io;
use std::path::{Path, PathBuf};

use super::LogStream;
use super::attributes::LogAttributes;
use super::config::{LogConfig, LogDriver};
use super::files::LogFiles;
use super::kept::KeptLog;
use super::position::{LogPosition, Source};
use super::record::{Ledger, Record};
use super::stamp;

/// Why something is not in the log. Nothing is lost by it: what is not recorded is not acknowledged, so the guest still
/// has it, and the same bytes can be appended again.
#[derive(Debug, thiserror::Error)]
pub enum LogWriteError {
    /// The file system refused, e.g. since the disk is full.
    #[error("failed to {action} the log {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There are bytes between those that the writer has and those that were given.
    #[error("the log has {} up to byte {expected}, and was given byte {given}", .stream.name())]
    Gap {
        /// Of which output.
        stream: LogStream,
        /// Where it should have gone on.
        expected: u64,
        /// Where what was given begins.
        given: u64,
    },
}

impl LogWriteError {
    pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogWriteError {
        move |source| LogWriteError::Io { action, path: path.to_owned(), source }
    }
}

/// Up to where the bytes of each output are in the log, and may be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of standard output, or of the terminal.
    pub stdout: u64,
    /// Of standard error.
    pub stderr: u64,
}

impl Offsets {
    /// That of one output.
    #[must_use]
    pub fn of(&self, stream: LogStream) -> u64 {
        match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }
}

/// Writes what a container prints.
///
/// Its calls write to files and do not wait for the disk, so they are short while memory lasts; a system that is short
/// of it may hold them up. A log has one writer: that there is no other is for the caller to see to.
///
/// When it is dropped, readers that follow get what is recorded, and end.
#[derive(Debug)]
pub struct LogWriter {
    ledger: Ledger,
    path: PathBuf,
    kept: Option<KeptLog>,
}

impl LogWriter {
    /// Opens the log whose newest file is at `log`, in a folder that exists, and makes it when there is none. What was
    /// not recorded when its last writer ended is cut off: each output goes on from [`LogWriter::offsets`].
    ///
    /// # Errors
    ///
    /// When its files cannot be read, made or repaired.
    pub fn open(
        log: &Path,
        config: &LogConfig,
        attributes: &LogAttributes,
    ) -> Result<LogWriter, LogWriteError> {
        let position = LogFiles::new(log, 1).position();
        let (mut ledger, known) =
            Ledger::open(&position).map_err(LogWriteError::at("open the position of", log))?;
        let kept = match config.driver() {
            LogDriver::None => None,
            LogDriver::JsonFile | LogDriver::Local => {
                Some(KeptLog::open(log, config, attributes, &mut ledger, known)?)
            }
        };
        Ok(LogWriter { ledger, path: log.to_owned(), kept })
    }

    /// Says which run of the container the outputs belong to. With another run than the last one their offsets begin at
    /// zero, and what was held back of that one's outputs is written; with the same, they go on. Zero is no run.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded; the run is the one before then.
    pub fn begin_run(&mut self, run: u64) -> Result<(), LogWriteError> {
        if self.ledger.record().run == run {
            return Ok(());
        }
        for stream in LogStream::ALL {
            self.finish_stream(stream)?;
        }
        match &mut self.kept {
            Some(kept) => kept.begin_run(&mut self.ledger, run),
            None => self.store(Record { run, offsets: [0, 0], ..*self.ledger.record() }),
        }
    }

    /// The run that the offsets belong to; zero before the first.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.ledger.record().run
    }

    /// Up to where each output is in the log. What comes before may be acknowledged; after a crash, each output must be
    /// read again from here.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let [stdout, stderr] = self.ledger.record().offsets;
        Offsets { stdout, stderr }
    }

    /// Up to where the writer has an output: in the log, or held back until its line ends.
    #[must_use]
    pub fn received(&self, stream: LogStream) -> u64 {
        let held_back = self.kept.as_ref().map_or(0, |kept| kept.held_back(stream));
        self.offsets().of(stream).saturating_add(held_back)
    }

    /// Appends a chunk of an output, which begins at `offset` of it. What the writer has already is skipped, so that a
    /// chunk can be given again, whole or in part. Chunks of up to 256 KiB are best: each is one write.
    ///
    /// # Errors
    ///
    /// When it was not written, or not all of it: [`LogWriter::received`] says from where to go on. The next call
    /// clears up what a failed one left. When bytes are missing before the chunk, nothing is done.
    pub fn append(&mut self, stream: LogStream, offset: u64, bytes: &[u8]) -> Result<(), LogWriteError> {
        self.append_at_time(stream, offset, bytes, stamp::now_ns())
    }

    pub(super) fn append_at_time(
        &mut self,
        stream: LogStream,
        offset: u64,
        bytes: &[u8],
        now_ns: i64,
    ) -> Result<(), LogWriteError> {
        let expected = self.received(stream);
        let known =
            expected.checked_sub(offset).ok_or(LogWriteError::Gap { stream, expected, given: offset })?;
        let fresh = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(());
        }
        match &mut self.kept {
            Some(kept) => kept.append(&mut self.ledger, stream, fresh, now_ns),
            None => {
                let mut record = *self.ledger.record();
                let offset = &mut record.offsets[stream.index()];
                *offset = offset.saturating_add(fresh.len() as u64);
                self.store(record)
            }
        }
    }

    /// Writes what was held back of an output that has ended: a line without a newline. Can be repeated.
    ///
    /// # Errors
    ///
    /// As with [`LogWriter::append`].
    pub fn finish_stream(&mut self, stream: LogStream) -> Result<(), LogWriteError> {
        match &mut self.kept {
            Some(kept) => kept.finish_stream(&mut self.ledger, stream, stamp::now_ns()),
            None => Ok(()),
        }
    }

    /// Says that the container has stopped: readers that follow get all that is in the log, and end. The outputs must
    /// have been finished. The log goes on with [`LogWriter::begin_run`].
    pub fn end_run(&mut self) {
        if let Some(kept) = &self.kept {
            kept.end_run(&self.ledger);
        }
    }

    /// Where readers of this log begin. It is good for as long as the writer is there.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        let source = match &self.kept {
            Some(kept) => Source::Written(kept.shared.clone()),
            None => Source::NotKept,
        };
        LogPosition { source }
    }

    fn store(&mut self, record: Record) -> Result<(), LogWriteError> {
        self.ledger.store(record).map_err(LogWriteError::at("record the position of", &self.path))
    }

    /// Waits until files that are full are compressed.
    #[cfg(test)]
    pub(super) fn finish_compression(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.finish_compression();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.end_run();
    }
}
