//! One output of a process: what it writes goes to the host, and is kept until the host has acknowledged it.
//!
//! ```text
//!                attach, from a byte ──▶ ┌────────────┐
//!   no connection                        │ connection │ ── the pipe ended, everything acknowledged ──▶ over
//!                ◀── vanishes or errs ── └────────────┘
//! ```
//!
//! A newer connection replaces an older one, whether or not that still stands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use capsid_protocol::{OutputAccepted, StreamKind};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::window::{Acknowledgements, Window};
use super::{BUFFER_BYTES, ROUNDS, Side};

/// How long the output of an ended process is still read when another process holds its pipe and writes nothing:
/// as long as Docker gives it.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Acknowledgements that are read at once.
const ACKNOWLEDGEMENTS_READ_BYTES: usize = 1 << 10;

/// One output.
#[derive(Debug)]
pub(crate) struct Output {
    kind: StreamKind,
    /// `None` once it has ended.
    process: Option<OwnedFd>,
    /// The far end of a terminal, held while its process lives: a program may close it and open it again.
    far_end: Option<OwnedFd>,
    window: Window,
    host: Option<Connection>,
    /// Set when the process has ended.
    drain_until: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    acknowledgements: Acknowledgements,
    /// Whether it was half-closed.
    knows_end: bool,
}

impl Output {
    /// The output at the agent's end of a pipe or terminal, which does not block, and the far end of a terminal.
    pub(crate) fn new(kind: StreamKind, process: OwnedFd, far_end: Option<OwnedFd>) -> Self {
        Self {
            kind,
            process: Some(process),
            far_end,
            window: Window::default(),
            host: None,
            drain_until: None,
        }
    }

    /// Which output it is.
    pub(crate) fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Whether it has ended, and the host has acknowledged everything.
    pub(crate) fn is_over(&self) -> bool {
        self.process.is_none() && self.window.is_acknowledged()
    }

    /// The terminal or pipe, while it stands.
    pub(crate) fn process_side(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(AsFd::as_fd)
    }

    /// How far it is.
    pub(crate) fn stands(&self) -> OutputAccepted {
        OutputAccepted { acknowledged: self.window.acknowledged(), produced: self.window.produced() }
    }

    /// Goes on from `from`, which lies where [`Output::stands`] says, over a connection that does not block, and of
    /// which `early` was read already. Closes the connection that there was.
    pub(crate) fn attach(&mut self, connection: OwnedFd, from: u64, early: &[u8]) {
        self.window.resume(from);
        let acknowledgements = Acknowledgements::default();
        self.host = Some(Connection { socket: connection, acknowledgements, knows_end: false });
        self.acknowledge(early);
    }

    /// The process has ended: its output is what the pipe still holds.
    pub(crate) fn process_ended(&mut self, now: Instant) {
        self.far_end = None;
        self.drain_until = Some(now + DRAIN_GRACE);
    }

    /// When [`Output::pump`] must be called though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.drain_until.filter(|_| self.reads_process())
    }

    /// Whether the process is to be read: everything before was sent, and there is room.
    fn reads_process(&self) -> bool {
        self.process.is_some() && self.host.is_some() && self.window.is_sent() && self.window.has_space()
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(Side, BorrowedFd<'a>, PollFlags)) {
        // poll reports hang-ups whether asked or not: whoever cannot act on one must not be in the list.
        if let Some(process) = self.process.as_ref().filter(|_| self.reads_process()) {
            add(Side::Process, process.as_fd(), PollFlags::IN);
        }
        if let Some(host) = &self.host {
            let send = if self.window.is_sent() { PollFlags::empty() } else { PollFlags::OUT };
            add(Side::Host, host.socket.as_fd(), PollFlags::IN | send);
        }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn pump(&mut self, side: Side, now: Instant) {
        if side == Side::Host {
            self.read_acknowledgements();
        }
        self.move_on(now);
        if self.is_over() {
            self.host = None;
        }
    }

    fn read_acknowledgements(&mut self) {
        let mut bytes = [0; ACKNOWLEDGEMENTS_READ_BYTES];
        for _ in 0..ROUNDS {
            let Some(host) = &self.host else { return };
            match rustix::io::read(&host.socket, &mut bytes) {
                // Nothing can be acknowledged any more: the host's program is gone, or means to be.
                Ok(0) => return self.host = None,
                Ok(count) => self.acknowledge(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.host = None,
            }
        }
    }

    fn acknowledge(&mut self, bytes: &[u8]) {
        let Some(host) = &mut self.host else { return };
        let acknowledged = host.acknowledgements.push(bytes);
        if acknowledged.is_some_and(|place| self.window.acknowledge(place).is_err()) {
            crate::log("an output's connection ends: it acknowledged more than it was sent");
            self.host = None;
        }
    }

    fn move_on(&mut self, now: Instant) {
        for _ in 0..ROUNDS {
            if !self.send() || !self.window.is_sent() {
                return;
            }
            let Some(process) = &self.process else { return self.tell_end() };
            let space = self.window.space();
            if space.is_empty() {
                return;
            }
            let length = space.len().min(BUFFER_BYTES);
            match rustix::io::read(process, &mut space[..length]) {
                // A terminal whose processes are gone fails instead of ending.
                Ok(0) | Err(Errno::IO) => self.process = None,
                Ok(count) => self.window.produce(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.drain_until.is_some_and(|until| now >= until) => {
                    self.process = None;
                }
                Err(Errno::AGAIN) => return self.window.shrink(),
                Err(_) => self.process = None,
            }
        }
    }

    /// Sends what the connection takes. False: there is none.
    fn send(&mut self) -> bool {
        while let Some(host) = &self.host {
            let unsent = self.window.unsent();
            if unsent.is_empty() {
                return true;
            }
            match rustix::net::send(&host.socket, unsent, SendFlags::NOSIGNAL) {
                Ok(count) => self.window.send(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => self.host = None,
            }
        }
        false
    }

    fn tell_end(&mut self) {
        if let Some(host) = self.host.as_mut().filter(|host| !host.knows_end) {
            // A connection that is gone already is noticed when it is read.
            let _ = rustix::net::shutdown(&host.socket, Shutdown::Write);
            host.knows_end = true;
        }
    }
}
