//! Reads a log: what is there, or from there on what comes.
//!
//! A reader takes a step when it is asked for the next entries, on a thread for blocking work, and has no task of its
//! own: a slow client costs what it was given last, and a client that leaves costs nothing.

mod batch;
mod cursor;
mod find;
mod lines;

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};

pub use batch::{LogBatch, LogEntry};

use self::cursor::{Cursor, Step};
use super::position::LogPosition;

/// Why a log cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum LogReadError {
    /// The container's driver keeps nothing. In Docker's words.
    #[error("configured logging driver does not support reading")]
    NotKept,
    /// The file system refused.
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
    /// The log has been rotated so often since that what should have come next is gone.
    #[error("the reader was too slow for the limits of the log {}", .0.display())]
    LeftBehind(PathBuf),
    /// The program is ending.
    #[error("reading a log was interrupted")]
    Interrupted,
}

/// Which entries are wanted. The default is all there are, of both outputs.
#[derive(Clone, Copy, Debug)]
pub struct LogQuery {
    /// Those of standard output.
    pub stdout: bool,
    /// Those of standard error.
    pub stderr: bool,
    /// None from before this.
    pub since: Option<Timestamp>,
    /// None from after this. The first that is later ends the reading, as with Docker.
    pub until: Option<Timestamp>,
    /// Only so many of the last ones. As with Docker they are counted before anything else is left out.
    pub tail: Option<u64>,
    /// Whether to wait for what comes, until the container stops. Of one that is not running, nothing comes.
    pub follow: bool,
}

impl Default for LogQuery {
    fn default() -> LogQuery {
        LogQuery { stdout: true, stderr: true, since: None, until: None, tail: None, follow: false }
    }
}

/// Reads a log once, from front to back.
#[derive(Debug)]
pub struct LogReader {
    stage: Stage,
    until: Option<Timestamp>,
}

#[derive(Debug)]
enum Stage {
    Ready(Box<Cursor>),
    /// A step that was begun by a call that was dropped before it ended is taken up by the next one.
    Stepping(JoinHandle<(Box<Cursor>, Result<Step, LogReadError>)>),
    Ended,
}

impl LogReader {
    /// Opens the files that the log has now. It is what is read, whatever happens to them later.
    ///
    /// # Errors
    ///
    /// When the container's output is not kept, or a file cannot be opened.
    pub fn open(position: &LogPosition, query: LogQuery) -> Result<LogReader, LogReadError> {
        let cursor = Cursor::open(position, query)?;
        Ok(LogReader { stage: Stage::Ready(Box::new(cursor)), until: query.until })
    }

    /// The next entries; none at the end. It may be dropped and called again, and nothing is lost.
    ///
    /// # Errors
    ///
    /// When there is no going on; the next call gives none.
    pub async fn next(&mut self) -> Result<Option<LogBatch>, LogReadError> {
        loop {
            match self.step().await? {
                Step::Batch(batch) if batch.is_empty() => {}
                Step::Batch(batch) => return Ok(Some(batch)),
                Step::Wait => self.wait().await,
                Step::End => {
                    self.stage = Stage::Ended;
                    return Ok(None);
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, LogReadError> {
        if let Stage::Ready(_) = &self.stage
            && let Stage::Ready(mut cursor) = std::mem::replace(&mut self.stage, Stage::Ended)
        {
            self.stage = Stage::Stepping(spawn_blocking(move || {
                let step = cursor.step();
                (cursor, step)
            }));
        }
        let Stage::Stepping(task) = &mut self.stage else { return Ok(Step::End) };
        let result = task.await;
        self.stage = Stage::Ended;
        let (cursor, step) = result.map_err(|_| LogReadError::Interrupted)?;
        let step = step?;
        self.stage = Stage::Ready(cursor);
        Ok(step)
    }

    /// Waits until the log is longer, or the time is over for which it is wanted.
    async fn wait(&mut self) {
        let Stage::Ready(cursor) = &mut self.stage else { return };
        let until = self.until;
        let time_is_over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = cursor.changed() => {}
            () = time_is_over => cursor.stop_following(),
        }
    }
}

/// The clock of the wall may be set while we sleep, so it is looked at again.
async fn sleep_until(time: Timestamp) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(60);
    while let Ok(left) = Duration::try_from(time.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}
