//! What containers print, kept in files as Docker's `json-file` driver keeps it, so that others' tools read it.
//!
//! ```text
//! ID-json.log            {"log":"hello\n","stream":"stdout","time":"2026-11-24T08:00:00.123456789Z"}
//! ID-json.log.1          the one before it; with `compress`, ID-json.log.1.gz
//! ID-json.log.position   how far the log reaches, and up to which byte of each output
//! ```
//!
//! An output of a container is a stream of bytes, counted from the start of its process. The guest keeps what it wrote
//! until the host acknowledges it; the host acknowledges what [`LogWriter::offsets`] says is in the log. Whatever the
//! moment at which this process is killed, the next one opens the log, which cuts off what was not recorded, and reads
//! each output again from where the log ends: every byte is in the log once.
//!
//! A log holds text. Bytes which are not UTF-8 become U+FFFD in it, one for each, as in Docker's; what clients get
//! while they are attached to a container is exact, and does not come from here.
//!
//! A killed process loses nothing that it wrote to a file; a host that loses its power loses its containers as well.
//! So nothing here waits for the disk.
//!
//! There is one [`LogWriter`] for a log, which the owner of the container has. Any number of [`LogReader`]s read at
//! their own pace and never hold it up.

mod attributes;
mod compress;
mod config;
mod decode;
mod encode;
mod files;
mod kept;
mod pieces;
mod position;
mod reader;
mod record;
mod stamp;
mod writer;

#[cfg(test)]
mod tests;

pub use attributes::{ContainerFacts, LogAttributes};
pub use config::{LogConfig, LogConfigError, LogDriver};
pub use position::LogPosition;
pub use reader::{LogBatch, LogEntry, LogQuery, LogReadError, LogReader};
pub use writer::{LogWriteError, LogWriter, Offsets};

/// An output of a container. What a terminal prints is all [`LogStream::Stdout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// Both, in the order of [`LogStream::index`].
    const ALL: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

    /// As it is written in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        }
    }

    fn index(self) -> usize {
        match self {
            LogStream::Stdout => 0,
            LogStream::Stderr => 1,
        }
    }
}
