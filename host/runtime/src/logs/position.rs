//! What the writer of a log tells its readers: the files one after the other, and how far the last one reaches.
//!
//! A reader that follows holds the file it reads, and goes from it to the next. So it does not matter to it that
//! files get other names, or none. The writer waits for no reader; but a reader that stays far behind would keep files
//! on the disk that the log's limits say should go. It is left behind then: its files are closed, and it ends with an
//! error.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use super::files::LogFiles;

/// How many files a reader may be behind, beyond those that the log keeps.
const MAX_FILES_BEHIND: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the log, for as long as somebody may read from it.
#[derive(Debug)]
pub(super) struct Generation {
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// None when readers were left behind.
    file: Option<Arc<File>>,
    /// Set once the next file is there: how far this one reached.
    end: Option<u64>,
    next: Option<Arc<Generation>>,
}

/// What comes after a [`Generation`].
#[derive(Debug)]
pub(super) enum Successor {
    /// This one is the newest.
    None,
    /// It is finished, and that is the next.
    Next {
        end: u64,
        next: Arc<Generation>,
    },
    LeftBehind,
}

impl Generation {
    pub(super) fn new(file: Arc<File>) -> Arc<Generation> {
        Arc::new(Generation { held: Mutex::new(Held { file: Some(file), end: None, next: None }) })
    }

    /// The file, unless its readers were left behind.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        lock(&self.held).file.clone()
    }

    pub(super) fn successor(&self) -> Successor {
        let held = lock(&self.held);
        match (held.end, &held.next) {
            (Some(end), Some(next)) => Successor::Next { end, next: Arc::clone(next) },
            (None, _) if held.file.is_some() => Successor::None,
            _ => Successor::LeftBehind,
        }
    }

    fn finish(&self, end: u64, next: &Arc<Generation>) {
        let mut held = lock(&self.held);
        held.end = Some(end);
        held.next = Some(Arc::clone(next));
    }

    /// Closes the file. What follows is let go as well, so that a reader which never comes back holds no chain.
    fn leave_behind(&self) {
        let mut held = lock(&self.held);
        held.file = None;
        held.next = None;
    }
}

/// Where the run of a container that a reader follows has its end, once it has.
pub(super) type RunEnd = Arc<OnceLock<(Arc<Generation>, u64)>>;

/// How far the log reaches now.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) newest: Arc<Generation>,
    pub(super) length: u64,
    pub(super) run_end: RunEnd,
    /// Of how many files, the newest among them, the times are surely in order.
    pub(super) ordered_files: u64,
}

/// What a writer shares with the readers and with the compressor.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) files: LogFiles,
    /// Held while files get other names, and while a reader opens them.
    names: Mutex<()>,
    states: watch::Sender<State>,
    /// The last files before the newest, oldest first, for as long as readers need them.
    finished: Mutex<VecDeque<Weak<Generation>>>,
    max_files: usize,
}

impl Shared {
    pub(super) fn new(files: LogFiles, max_files: u32, state: State) -> Arc<Shared> {
        Arc::new(Shared {
            files,
            names: Mutex::new(()),
            states: watch::Sender::new(state),
            finished: Mutex::new(VecDeque::new()),
            max_files: usize::try_from(max_files).unwrap_or(usize::MAX).saturating_add(MAX_FILES_BEHIND),
        })
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        lock(&self.names)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.states.subscribe()
    }

    /// Changes the state and wakes the readers.
    pub(super) fn publish(&self, change: impl FnOnce(&mut State)) {
        self.states.send_modify(change);
    }

    pub(super) fn newest(&self) -> Arc<Generation> {
        Arc::clone(&self.states.borrow().newest)
    }

    /// Goes on with another file. The one before it reached to `end`.
    pub(super) fn publish_next(&self, end: u64, next: &Arc<Generation>, length: u64, ordered_files: u64) {
        let before = self.newest();
        before.finish(end, next);
        self.publish(|state| {
            state.newest = Arc::clone(next);
            state.length = length;
            state.ordered_files = ordered_files;
        });
        let mut finished = lock(&self.finished);
        finished.push_back(Arc::downgrade(&before));
        while finished.len() > self.max_files {
            if let Some(generation) = finished.pop_front().and_then(|weak| weak.upgrade()) {
                generation.leave_behind();
            }
        }
    }
}

/// Where the log of a container can be read. Cheap to clone; readers are made of it.
#[derive(Clone, Debug)]
pub struct LogPosition {
    pub(super) source: Source,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Written(Arc<Shared>),
    Stopped(LogFiles),
    NotKept,
}

impl LogPosition {
    /// The log whose newest file is at `log`, to which nobody writes: of a container that is not running, and of which
    /// this process has no [`LogWriter`](super::LogWriter). A log that does not exist is empty.
    #[must_use]
    pub fn of_stopped(log: &Path) -> LogPosition {
        LogPosition { source: Source::Stopped(LogFiles::new(log, 1)) }
    }
}
