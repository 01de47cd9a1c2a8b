//! The agent's one loop: waits for anything to happen, and gives it to whom it concerns.
//!
//! One thread and one `poll`: a fork copies a process that holds no locks, and nothing here is shared. Nothing in
//! the loop blocks, but for `PrepareRoot`, before which there is nothing to keep waiting, and the last `Shutdown`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use capsid_protocol::ProcessId;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::control::{Control, Newcomer};
use crate::openings::Parked;
use crate::processes::{Phase, Processes};
use crate::reaper::Reaper;
use crate::requests::Closing;
use crate::sandbox::Sandbox;
use crate::streams::{BUFFER_BYTES, Side, Which};
use crate::sys;

/// Connections that have not said what they are; beyond it the oldest goes.
const MAX_NEWCOMERS: usize = 64;

/// Something that poll can report.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    /// By its place among the newcomers.
    Newcomer(usize),
    Control,
    Status(ProcessId),
    Child(i32),
    Stream(ProcessId, Which, Side),
}

/// The server.
pub(crate) struct Server<S> {
    pub(crate) sandbox: S,
    listener: Option<OwnedFd>,
    /// A place is empty once its newcomer has said what it is; places change between steps only.
    pub(crate) newcomers: Vec<Option<Newcomer>>,
    pub(crate) control: Option<Control>,
    pub(crate) control_count: u64,
    pub(crate) parked: Parked,
    pub(crate) processes: Processes,
    pub(crate) reaper: Reaper,
    pub(crate) closing: Option<Closing>,
    pub(crate) scratch: Vec<u8>,
}

impl<S: Sandbox> Server<S> {
    /// Serves the connections that `listener` gives, if there is one.
    pub(crate) fn new(sandbox: S, listener: Option<OwnedFd>) -> Self {
        Self {
            sandbox,
            listener,
            newcomers: Vec::new(),
            control: None,
            control_count: 0,
            parked: Parked::default(),
            processes: Processes::default(),
            reaper: Reaper::default(),
            closing: None,
            scratch: vec![0; BUFFER_BYTES],
        }
    }

    /// Serves until the machine is to go.
    pub(crate) fn run(&mut self) {
        while !self.is_finished() {
            self.step(None);
        }
    }

    /// Waits for something to happen, at most for `patience`, and deals with it.
    pub(crate) fn step(&mut self, patience: Option<Duration>) {
        for (source, events) in self.wait(patience) {
            match source {
                Source::Listener => self.accept(),
                Source::Newcomer(place) => self.meet(place),
                Source::Control => self.talk(events),
                Source::Status(process) => self.read_status(process),
                Source::Child(pid) => self.reap(pid),
                Source::Stream(process, which, side) => self.pump(process, which, side, events),
            }
        }
        self.tidy();
        self.go_on_closing();
    }

    /// Takes in a connection, which does not block, of a peer that may speak.
    pub(crate) fn admit(&mut self, connection: OwnedFd) {
        self.newcomers.push(Some(Newcomer::new(connection)));
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if let Ok((connection, cid)) = sys::vsock::accept(listener.as_fd()) {
            // A container could reach this port through the machine itself. It must not be heard.
            if cid == sys::vsock::HOST_CID {
                self.admit(connection);
            }
        }
    }

    fn wait(&self, patience: Option<Duration>) -> Vec<(Source, PollFlags)> {
        let mut sources = Vec::new();
        let mut descriptors = Vec::new();
        self.list(&mut |source, descriptor, events| {
            sources.push(source);
            descriptors.push(PollFd::from_borrowed_fd(descriptor, events));
        });
        let timeout = self.timeout(patience);
        match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
            // Interrupted, or out of memory for a moment: nothing has happened yet.
            Ok(0) | Err(Errno::INTR | Errno::NOMEM | Errno::AGAIN) => return Vec::new(),
            Ok(_) => {}
            Err(error) => panic!("poll failed: {error}"),
        }
        let events = descriptors.iter().map(PollFd::revents);
        sources.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect()
    }

    /// Everything to wait for.
    fn list<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        if let Some(listener) = &self.listener {
            add(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        for (place, newcomer) in self.newcomers.iter().enumerate() {
            if let Some(newcomer) = newcomer {
                add(Source::Newcomer(place), newcomer.descriptor(), PollFlags::IN);
            }
        }
        if let Some(control) = &self.control {
            add(Source::Control, control.descriptor(), control.interests());
        }
        for (pid, pidfd) in self.reaper.children() {
            add(Source::Child(pid), pidfd, PollFlags::IN);
        }
        for (id, process) in self.processes.iter() {
            if let Phase::Starting(starting) = &process.phase {
                add(Source::Status(id), starting.status.as_fd(), PollFlags::IN);
            }
            process.streams.interests(|which, side, descriptor, events| {
                add(Source::Stream(id, which, side), descriptor, events);
            });
        }
    }

    /// Until the first of: `patience`, a stream's deadline, a shutdown's.
    fn timeout(&self, patience: Option<Duration>) -> Option<Timespec> {
        let deadlines = [self.processes.deadline(), self.closing.as_ref().map(Closing::deadline)];
        let now = Instant::now();
        let until = deadlines.into_iter().flatten().map(|deadline| deadline.saturating_duration_since(now));
        // A millisecond more, so that the deadline has passed when poll returns.
        let until = until.map(|duration| duration + Duration::from_millis(1));
        let shortest = until.chain(patience).min()?;
        Timespec::try_from(shortest).ok()
    }

    fn pump(&mut self, id: ProcessId, which: Which, side: Side, events: PollFlags) {
        if let Some(process) = self.processes.get_mut(id) {
            process.streams.pump(which, side, events, &mut self.scratch);
        }
    }

    /// Does for the streams what it is time for, and lets go of what is over.
    fn tidy(&mut self) {
        let now = Instant::now();
        for process in self.processes.iter_mut() {
            process.streams.tidy(now, self.control.is_some());
        }
        self.newcomers.retain(Option::is_some);
        let surplus = self.newcomers.len().saturating_sub(MAX_NEWCOMERS);
        self.newcomers.drain(..surplus);
    }
}
