//! Every process that the host has started: its phase, its streams, and who waits for its end.
//!
//! ```text
//!             exec reported            reaped
//!  Starting ───────────────▶ Running ─────────▶ Ended (kept for later waits, the newest)
//!     └── refused: forgotten
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use capsid_protocol::{ExitReport, FrameAssembler, ProcessId, Refusal, Response, StartedProcess};

use crate::control::Asker;
use crate::streams::Streams;

/// Processes that are not ended, or whose output has not been taken.
pub(crate) const MAX_LIVE: usize = 1024;
/// Ends that are remembered.
const MAX_REMEMBERED: usize = 8192;
/// Waits under way, of all processes together.
pub(crate) const MAX_WAITERS: usize = 4096;

/// What a start has come to so far.
#[derive(Debug)]
pub(crate) struct Starting {
    /// Ends when the child has become its program or has failed to.
    pub(crate) status: OwnedFd,
    /// What came over it.
    pub(crate) assembler: FrameAssembler,
    /// Who is told.
    pub(crate) asker: Asker,
}

/// How a start ended.
#[derive(Debug)]
pub(crate) enum StartOutcome {
    /// The program runs.
    Runs(StartedProcess),
    /// It does not.
    Refused(Refusal),
    /// The child was killed before it said anything.
    Vanished,
}

impl Starting {
    /// What the child reported; its channel has ended.
    pub(crate) fn outcome(mut self) -> StartOutcome {
        let mut outcome = StartOutcome::Vanished;
        while let Ok(Some((_, response))) = self.assembler.next_frame() {
            outcome = match response {
                Response::Started(started) => StartOutcome::Runs(started),
                Response::Failed(refusal) => StartOutcome::Refused(refusal),
                _ => continue,
            };
        }
        outcome
    }
}

/// Where a process is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Forked, and not yet its program.
    Starting(Starting),
    /// Its program runs.
    Running,
    /// Reaped.
    Ended(ExitReport),
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Where it is in its life.
    pub(crate) phase: Phase,
    /// What it reads and writes.
    pub(crate) streams: Streams,
    /// Who is to be told of its end.
    pub(crate) waiters: Vec<Asker>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    table: BTreeMap<ProcessId, Process>,
}

impl Processes {
    /// The process of that name.
    pub(crate) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.table.get(&id)
    }

    /// The process of that name.
    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&id)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.table.iter().map(|(&id, process)| (id, process))
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.table.values_mut()
    }

    /// Adds one, and forgets the oldest ends if there are too many.
    pub(crate) fn insert(&mut self, id: ProcessId, process: Process) {
        self.table.insert(id, process);
        if self.table.len() > MAX_REMEMBERED {
            let is_old = |(&id, process): (&ProcessId, &Process)| {
                (id != ProcessId::INIT && !process.is_live()).then_some(id)
            };
            if let Some(oldest) = self.table.iter().find_map(is_old) {
                self.table.remove(&oldest);
            }
        }
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: ProcessId) -> Option<Process> {
        self.table.remove(&id)
    }

    /// How many count against [`MAX_LIVE`].
    pub(crate) fn live(&self) -> usize {
        self.table.values().filter(|process| process.is_live()).count()
    }

    /// How many waits are under way.
    pub(crate) fn waiters(&self) -> usize {
        self.table.values().map(|process| process.waiters.len()).sum()
    }

    /// Forgets the waits of control connections other than `connection`.
    pub(crate) fn forget_waiters_but_of(&mut self, connection: u64) {
        for process in self.table.values_mut() {
            process.waiters.retain(|asker| asker.connection == connection);
        }
    }

    /// The next moment at which a process's streams want to be tidied.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.table.values().filter_map(|process| process.streams.deadline()).min()
    }
}

impl Process {
    fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_)) || !self.streams.are_over()
    }
}
