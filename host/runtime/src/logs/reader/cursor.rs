//! Where a reader is: in which file, and how far.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use memchr::memchr_iter;
use tokio::sync::watch;

use super::batch::LogBatch;
use super::find::{self, Tail};
use super::lines::Lines;
use super::{LogQuery, LogReadError};
use crate::logs::LogStream;
use crate::logs::decode::Decoder;
use crate::logs::files::{LogFiles, end_of_lines};
use crate::logs::position::{Generation, LogPosition, RunEnd, Shared, Source, State, Successor};
use crate::logs::record::Ledger;

/// A batch with so much text is handed on.
const BATCH_BYTES: usize = 128 * 1024;
/// A step ends after so many blocks, whatever it found: the reader may not be wanted any more.
const STEP_BLOCKS: usize = 64;

/// What a step came to.
#[derive(Debug)]
pub(super) enum Step {
    /// These entries. There may be none, and more to look at.
    Batch(LogBatch),
    /// All was given that is there, and more may come.
    Wait,
    /// There is no more.
    End,
}

/// A file, or a part of one, that is still to be read.
#[derive(Debug)]
enum Part {
    Plain { file: Arc<File>, start: u64, end: u64, ordered: bool },
    Compressed { file: File, unwanted_lines: u64 },
}

impl Part {
    fn into_lines(self) -> Lines {
        match self {
            Part::Plain { file, start, end, .. } => Lines::plain(file, start, end),
            Part::Compressed { file, unwanted_lines } => Lines::compressed(file, unwanted_lines),
        }
    }
}

/// Follows the writer from file to file.
#[derive(Debug)]
struct Follower {
    generation: Arc<Generation>,
    states: watch::Receiver<State>,
    run_end: RunEnd,
    /// Nothing is wanted of what comes from now on.
    last: bool,
}

enum Advance {
    /// The file is longer now.
    Longer(u64),
    /// It goes on in another file.
    NextFile(Arc<File>),
    Wait,
    End,
    LeftBehind,
}

impl Follower {
    /// What there is after `position` of the file.
    fn advance(&mut self, position: u64) -> Advance {
        // In this order: when the length is from after the end of the run, the end is seen.
        let state = self.states.borrow_and_update().clone();
        if let Some((generation, end)) = self.run_end.get()
            && Arc::ptr_eq(generation, &self.generation)
        {
            return if position < *end { Advance::Longer(*end) } else { Advance::End };
        }
        if Arc::ptr_eq(&state.newest, &self.generation) {
            return match (position < state.length, self.last) {
                (true, _) => Advance::Longer(state.length),
                (false, true) => Advance::End,
                (false, false) => Advance::Wait,
            };
        }
        match self.generation.successor() {
            Successor::Next { end, .. } if position < end => Advance::Longer(end),
            Successor::Next { next, .. } => match next.file() {
                Some(file) => {
                    self.generation = next;
                    Advance::NextFile(file)
                }
                None => Advance::LeftBehind,
            },
            Successor::None => Advance::Wait,
            Successor::LeftBehind => Advance::LeftBehind,
        }
    }
}

/// Reads a log step by step. Its steps block.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    query: LogQuery,
    /// What is to be read, oldest first.
    parts: VecDeque<Part>,
    /// Whether it is known where in the parts to begin.
    located: bool,
    lines: Option<Lines>,
    decoder: Decoder,
    follower: Option<Follower>,
    /// An entry was later than what is wanted.
    ended: bool,
}

impl Cursor {
    pub(super) fn open(position: &LogPosition, query: LogQuery) -> Result<Cursor, LogReadError> {
        let (path, opened) = match &position.source {
            Source::Written(shared) => (shared.files.newest(), open_written(shared, query.follow)),
            Source::Stopped(files) => (files.newest(), open_stopped(files).map(|parts| (parts, None))),
            Source::NotKept => return Err(LogReadError::NotKept),
        };
        let (parts, follower) =
            opened.map_err(|source| LogReadError::Io { action: "open", path: path.to_owned(), source })?;
        Ok(Cursor {
            path: path.to_owned(),
            query,
            parts,
            located: false,
            lines: None,
            decoder: Decoder::default(),
            follower,
            ended: false,
        })
    }

    /// Returns when there may be more to read. Can be dropped at any time.
    pub(super) async fn changed(&mut self) {
        if let Some(follower) = &mut self.follower
            && follower.states.changed().await.is_err()
        {
            // The writer is gone, which ended the run; what is left is read.
            follower.last = true;
        }
    }

    /// Ends after what is there now.
    pub(super) fn stop_following(&mut self) {
        if let Some(follower) = &mut self.follower {
            follower.last = true;
        }
    }

    pub(super) fn step(&mut self) -> Result<Step, LogReadError> {
        self.try_step().map_err(|failure| match failure {
            Failure::Io(source) => LogReadError::Io { action: "read", path: self.path.clone(), source },
            Failure::LeftBehind => LogReadError::LeftBehind(self.path.clone()),
        })
    }

    fn try_step(&mut self) -> Result<Step, Failure> {
        if !self.located {
            self.locate()?;
            self.located = true;
        }
        let mut batch = LogBatch::default();
        for _ in 0..STEP_BLOCKS {
            if self.ended {
                return Ok(if batch.is_empty() { Step::End } else { Step::Batch(batch) });
            }
            if self.read_block(&mut batch)? {
                if batch.text_mut().len() >= BATCH_BYTES {
                    break;
                }
                continue;
            }
            if self.next_part()? == More::Wait {
                if let Some(lines) = &mut self.lines {
                    lines.rest();
                }
                return Ok(if batch.is_empty() { Step::Wait } else { Step::Batch(batch) });
            }
        }
        Ok(Step::Batch(batch))
    }

    /// Decodes some lines. False when the part has no more.
    fn read_block(&mut self, batch: &mut LogBatch) -> io::Result<bool> {
        let Some(lines) = &mut self.lines else { return Ok(false) };
        let block = lines.next_block()?;
        let more = block.is_some();
        let block = block.unwrap_or_default();
        let mut start = 0;
        for newline in memchr_iter(b'\n', block) {
            let line = &block[start..newline];
            start = newline + 1;
            if !take_line(&mut self.decoder, &self.query, line, batch) {
                self.ended = true;
                break;
            }
        }
        for _ in 0..lines.take_garbage() {
            batch.skip_line();
        }
        Ok(more)
    }

    /// Goes to the next file, or finds that this one is longer by now.
    fn next_part(&mut self) -> Result<More, Failure> {
        if let Some(part) = self.parts.pop_front() {
            self.lines = Some(part.into_lines());
            return Ok(More::Some);
        }
        let (Some(follower), Some(lines)) = (&mut self.follower, &mut self.lines) else {
            self.ended = true;
            return Ok(More::Some);
        };
        match follower.advance(lines.position()) {
            Advance::Longer(end) => lines.extend(end),
            Advance::NextFile(file) => *lines = Lines::plain(file, 0, 0),
            Advance::Wait => return Ok(More::Wait),
            Advance::End => self.ended = true,
            Advance::LeftBehind => return Err(Failure::LeftBehind),
        }
        Ok(More::Some)
    }

    /// Leaves out what need not be read.
    fn locate(&mut self) -> io::Result<()> {
        match (self.query.tail, self.query.since) {
            (Some(wanted), _) => locate_tail(&mut self.parts, wanted),
            (None, Some(since)) => {
                for mut part in std::mem::take(&mut self.parts) {
                    if locate_since(&mut part, since)? {
                        self.parts.push_back(part);
                    }
                }
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }
}

#[derive(PartialEq, Eq)]
enum More {
    /// There may be something to read.
    Some,
    Wait,
}

enum Failure {
    Io(io::Error),
    LeftBehind,
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Failure {
        Failure::Io(source)
    }
}

/// Takes an entry if it is wanted. False when it is later than all that are.
fn take_line(decoder: &mut Decoder, query: &LogQuery, line: &[u8], batch: &mut LogBatch) -> bool {
    let start = batch.text_mut().len();
    let Some(entry) = decoder.decode(line, batch.text_mut()) else {
        batch.skip_line();
        return true;
    };
    let late = query.until.is_some_and(|until| entry.time > until);
    let early = query.since.is_some_and(|since| entry.time < since);
    let wanted = match entry.stream {
        LogStream::Stdout => query.stdout,
        LogStream::Stderr => query.stderr,
    };
    if wanted && !early && !late {
        batch.push(entry);
    } else {
        batch.text_mut().truncate(start);
    }
    !late
}

fn open_written(shared: &Shared, follow: bool) -> io::Result<(VecDeque<Part>, Option<Follower>)> {
    // No file gets another name between the listing and the opening.
    let _names = shared.lock_names();
    let states = shared.subscribe();
    let state = states.borrow().clone();
    let newest = state.newest.file().ok_or(ErrorKind::NotFound)?;
    let mut parts = open_rotated(&shared.files, &newest, state.ordered_files)?;
    parts.push_back(Part::Plain {
        file: newest,
        start: 0,
        end: state.length,
        ordered: state.ordered_files > 0,
    });
    let running = state.run_end.get().is_none();
    let follower = (follow && running).then(|| Follower {
        generation: Arc::clone(&state.newest),
        run_end: Arc::clone(&state.run_end),
        states,
        last: false,
    });
    Ok((parts, follower))
}

fn open_stopped(files: &LogFiles) -> io::Result<VecDeque<Part>> {
    let record = Ledger::read(&files.position())?;
    let ordered_files = record.map_or(0, |record| record.ordered_files());
    let newest = match File::open(files.newest()) {
        Ok(newest) => Arc::new(newest),
        // Of a rotation, the part that makes the new file is missing; or there is no log at all.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match files.newest().parent() {
                Some(folder) if folder.exists() => open_rotated_files(files, None, ordered_files),
                _ => Ok(VecDeque::new()),
            };
        }
        Err(error) => return Err(error),
    };
    let found = newest.metadata()?.len();
    let end = match record {
        Some(record) if found >= record.length => record.length,
        _ => end_of_lines(&newest, found)?,
    };
    let mut parts = open_rotated(files, &newest, ordered_files)?;
    parts.push_back(Part::Plain { file: newest, start: 0, end, ordered: ordered_files > 0 });
    Ok(parts)
}

fn open_rotated(files: &LogFiles, newest: &File, ordered_files: u64) -> io::Result<VecDeque<Part>> {
    let newest = newest.metadata()?;
    open_rotated_files(files, Some((newest.dev(), newest.ino())), ordered_files)
}

/// Opens the files before the newest. In a rotation that failed half-way that may have one of their names already.
fn open_rotated_files(
    files: &LogFiles,
    newest: Option<(u64, u64)>,
    ordered_files: u64,
) -> io::Result<VecDeque<Part>> {
    let mut parts = VecDeque::new();
    for rotated in files.list_rotated()? {
        let file = match File::open(&rotated.path) {
            Ok(file) => file,
            // Somebody else removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if newest == Some((found.dev(), found.ino())) {
            continue;
        }
        parts.push_back(if rotated.compressed {
            Part::Compressed { file, unwanted_lines: 0 }
        } else {
            let ordered = u64::from(rotated.number) < ordered_files;
            Part::Plain { file: Arc::new(file), start: 0, end: found.len(), ordered }
        });
    }
    Ok(parts)
}

/// Leaves the last `wanted` lines of all.
fn locate_tail(parts: &mut VecDeque<Part>, wanted: u64) -> io::Result<()> {
    let mut wanted = wanted;
    let mut first = 0;
    for (index, part) in parts.iter_mut().enumerate().rev() {
        let lines = match part {
            Part::Plain { file, start, end, .. } => match find::last_lines(file, *end, wanted)? {
                Tail::Start(found) => {
                    *start = found;
                    wanted
                }
                Tail::Fewer(lines) => lines,
            },
            Part::Compressed { file, unwanted_lines } => {
                let lines = find::count_compressed_lines(file)?;
                *unwanted_lines = lines.saturating_sub(wanted);
                lines.min(wanted)
            }
        };
        wanted -= lines;
        if wanted == 0 {
            first = index;
            break;
        }
    }
    parts.drain(..first);
    Ok(())
}

/// Leaves out what is from before `since`. False when that is all of it.
fn locate_since(part: &mut Part, since: Timestamp) -> io::Result<bool> {
    match part {
        Part::Plain { file, start, end, ordered: true } => *start = find::first_since(file, *end, since)?,
        // Any entry may be later than those after it.
        Part::Plain { .. } => {}
        Part::Compressed { file, .. } => {
            return Ok(find::compressed_last_time(file)?.is_none_or(|last| last >= since));
        }
    }
    Ok(true)
}
