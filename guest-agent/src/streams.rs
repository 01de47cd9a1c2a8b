//! One stdio stream of a process: the pipe or terminal on one side, a connection of the host on the other.
//!
//! A connection may come, vanish and be replaced at any time. Nothing is taken from a pipe while no connection
//! stands, so a process whose host is away waits when its pipe is full, and what it wrote stays there, also when it
//! ends. Buffers are bounded: what one read brought is gone before the next read.
//!
//! ```text
//!               attach ──▶ ┌────────────┐
//!   no connection          │ connection │ ── the pipe ended and was passed on ──▶ over
//!               ◀─ vanish  └────────────┘
//! ```
//!
//! Generic over nothing but descriptors: tests use socket pairs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use capsid_protocol::StreamKind;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

/// What one read takes at most.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// Reads of one stream before the others have their turn.
const ROUNDS: usize = 8;
/// How long the output of an ended process is still read when another process holds its pipe and writes nothing:
/// as long as Docker gives it.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// How long a control connection must outlive an input's connection that was closed for both directions, for that
/// to be the end of the input: a host that is killed loses both at once, give or take the way through the monitor.
const VANISH_GRACE: Duration = Duration::from_millis(150);

/// Bytes on their way, sent so far up to `sent`.
#[derive(Debug, Default)]
struct Leftover {
    bytes: Vec<u8>,
    sent: usize,
}

impl Leftover {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Writes `fresh` at once and keeps what was not taken.
    fn write_or_keep(
        &mut self,
        fresh: &[u8],
        mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let mut taken = 0;
        let outcome = write_all(fresh, &mut taken, &mut write);
        if taken < fresh.len() {
            self.bytes.clear();
            self.bytes.extend_from_slice(&fresh[taken..]);
            self.sent = 0;
        }
        outcome
    }

    fn flush(&mut self, mut write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
        write_all(&self.bytes, &mut self.sent, &mut write)?;
        if self.is_empty() {
            *self = Self::default();
        }
        Ok(())
    }
}

/// Writes until everything or nothing more is taken; the latter is no error.
fn write_all(
    bytes: &[u8],
    taken: &mut usize,
    write: &mut impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    while *taken < bytes.len() {
        match write(&bytes[*taken..]) {
            Ok(count) => *taken += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Which side of a stream an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The pipe or terminal.
    Process,
    /// The connection.
    Host,
}

/// Why a connection was not attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlreadyAttached;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    kind: StreamKind,
    /// `None` once it has ended or may be written no more.
    process: Option<OwnedFd>,
    /// The far end of a terminal, held while its process lives: a program may close it and open it again.
    far_end: Option<OwnedFd>,
    host: Option<OwnedFd>,
    to_host: Leftover,
    to_process: Leftover,
    /// When the connection of an input was closed for both directions, until it is known why.
    vanished_at: Option<Instant>,
    /// The connection's own direction has ended.
    host_ended: bool,
    /// Set when the process has ended.
    drain_until: Option<Instant>,
}

impl Stream {
    /// The stream of the agent's end of a pipe or terminal, which does not block, and the far end of a terminal.
    pub(crate) fn new(kind: StreamKind, process: OwnedFd, far_end: Option<OwnedFd>) -> Self {
        Self {
            kind,
            process: Some(process),
            far_end,
            host: None,
            to_host: Leftover::default(),
            to_process: Leftover::default(),
            vanished_at: None,
            host_ended: false,
            drain_until: None,
        }
    }

    /// Which stream it is.
    pub(crate) fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Whether it has nothing more to do: everything was passed on and the connection told.
    pub(crate) fn is_over(&self) -> bool {
        self.process.is_none() && self.host.is_none() && self.to_host.is_empty()
    }

    /// The terminal or pipe, while it stands.
    pub(crate) fn process_side(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(AsFd::as_fd)
    }

    /// Whether it has a connection that has not vanished.
    pub(crate) fn is_taken(&self) -> bool {
        self.host.as_ref().is_some_and(|host| !has_vanished(host))
    }

    /// Takes a connection, which does not block, and the bytes that were read from it already.
    ///
    /// # Errors
    ///
    /// There is one already that has not vanished; the new one is dropped.
    pub(crate) fn attach(&mut self, connection: OwnedFd, early: &[u8]) -> Result<(), AlreadyAttached> {
        if self.is_taken() {
            return Err(AlreadyAttached);
        }
        self.host = Some(connection);
        self.host_ended = false;
        self.vanished_at = None;
        if self.takes_input() && !early.is_empty() {
            self.to_process.bytes.extend_from_slice(early);
        }
        Ok(())
    }

    /// The process has ended: input has nowhere to go, output is what the pipe still holds.
    pub(crate) fn process_ended(&mut self, now: Instant) {
        self.far_end = None;
        if self.kind == StreamKind::Stdin {
            self.process = None;
            self.host = None;
            return;
        }
        self.drain_until = Some(now + DRAIN_GRACE);
        self.to_process = Leftover::default();
    }

    /// When [`Stream::pump`] must be called though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.drain_until.filter(|_| self.process.is_some() && self.host.is_some() && self.to_host.is_empty())
    }

    /// When [`Stream::settle`] must be called.
    pub(crate) fn settle_at(&self) -> Option<Instant> {
        self.vanished_at.filter(|_| self.to_process.is_empty()).map(|at| at + VANISH_GRACE)
    }

    /// Decides what the end of an input's connection meant. `host_stands`: the control connection of that moment is
    /// still there, so the host closed the input on purpose; otherwise it was killed, and may come back to it.
    pub(crate) fn settle(&mut self, host_stands: bool) {
        if self.vanished_at.take().is_some() && host_stands {
            self.end_input();
        }
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(Side, BorrowedFd<'a>, PollFlags)) {
        let mut process = PollFlags::empty();
        let mut host = PollFlags::empty();
        if self.gives_output() && self.host.is_some() && self.to_host.is_empty() {
            process |= PollFlags::IN;
        }
        if !self.to_process.is_empty() {
            process |= PollFlags::OUT;
        }
        if !self.to_host.is_empty() {
            host |= PollFlags::OUT;
        }
        if !self.host_ended && self.to_process.is_empty() {
            host |= PollFlags::IN;
        }
        // poll reports hang-ups whether asked or not: whoever cannot act on one must not be in the list. An idle
        // stdin is there for its hang-up alone: the process has closed it.
        let watch_close = self.kind == StreamKind::Stdin && self.host.is_some();
        if let Some(descriptor) = self.process.as_ref().filter(|_| !process.is_empty() || watch_close) {
            add(Side::Process, descriptor.as_fd(), process);
        }
        let watch_vanish = self.to_process.is_empty();
        if let Some(descriptor) = self.host.as_ref().filter(|_| !host.is_empty() || watch_vanish) {
            add(Side::Host, descriptor.as_fd(), host);
        }
    }

    /// Moves what can be moved without waiting. `scratch` is [`BUFFER_BYTES`] long and shared by all streams.
    pub(crate) fn pump(&mut self, side: Side, events: PollFlags, now: Instant, scratch: &mut [u8]) {
        let had_host = self.host.is_some();
        if self.takes_input() {
            self.pump_input(scratch);
        } else {
            self.discard_input(scratch);
        }
        if self.gives_output() {
            self.pump_output(now, scratch);
        }
        let hung_up = events.intersects(PollFlags::HUP | PollFlags::ERR);
        match side {
            Side::Process if hung_up && self.kind == StreamKind::Stdin => self.end_input(),
            Side::Host if hung_up && self.host.as_ref().is_some_and(has_vanished) => self.host = None,
            _ => {}
        }
        let is_lost = had_host && self.host.is_none() && self.process.is_some();
        if is_lost && self.kind == StreamKind::Stdin {
            self.vanished_at = Some(now);
        }
    }

    fn gives_output(&self) -> bool {
        self.kind != StreamKind::Stdin
    }

    fn takes_input(&self) -> bool {
        matches!(self.kind, StreamKind::Stdin | StreamKind::Terminal)
    }

    fn pump_input(&mut self, scratch: &mut [u8]) {
        for _ in 0..ROUNDS {
            let Some(process) = &self.process else { return self.discard_input(scratch) };
            let write = |bytes: &[u8]| rustix::io::write(process, bytes);
            if self.to_process.flush(write).is_err() {
                return self.end_input();
            }
            let Some(host) = self.host.as_ref().filter(|_| !self.host_ended && self.to_process.is_empty())
            else {
                return;
            };
            match rustix::io::read(host, &mut *scratch) {
                Ok(0) => return self.host_side_ended(),
                Ok(count) => {
                    if self.to_process.write_or_keep(&scratch[..count], write).is_err() {
                        return self.end_input();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.host = None,
            }
        }
    }

    /// A half-closed connection is the end of input; one that is gone for both directions is a host that vanished,
    /// and may come back.
    fn host_side_ended(&mut self) {
        self.host_ended = true;
        if self.host.as_ref().is_some_and(has_vanished) {
            self.host = None;
        } else if self.kind == StreamKind::Stdin {
            self.end_input();
        }
    }

    /// No more input: closes the pipe. A terminal stays, it has output too.
    fn end_input(&mut self) {
        self.to_process = Leftover::default();
        if self.kind == StreamKind::Stdin {
            self.process = None;
            self.host = None;
        }
    }

    /// Nothing is expected from the host here; reading it is how its end is seen.
    fn discard_input(&mut self, scratch: &mut [u8]) {
        for _ in 0..ROUNDS {
            let Some(host) = self.host.as_ref().filter(|_| !self.host_ended) else { return };
            match rustix::io::read(host, &mut *scratch) {
                Ok(0) => return self.host_side_ended(),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.host = None,
            }
        }
    }

    fn pump_output(&mut self, now: Instant, scratch: &mut [u8]) {
        for _ in 0..ROUNDS {
            let Some(host) = &self.host else { return };
            let write = |bytes: &[u8]| rustix::net::send(host, bytes, SendFlags::NOSIGNAL);
            if self.to_host.flush(write).is_err() {
                return self.host = None;
            }
            if !self.to_host.is_empty() {
                return;
            }
            let Some(process) = &self.process else { return self.end_output() };
            match rustix::io::read(process, &mut *scratch) {
                // A terminal whose processes are gone fails instead of ending.
                Ok(0) | Err(Errno::IO) => self.process = None,
                Ok(count) => {
                    if self.to_host.write_or_keep(&scratch[..count], write).is_err() {
                        return self.host = None;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.drain_until.is_some_and(|until| now >= until) => {
                    self.process = None
                }
                Err(Errno::AGAIN) => return,
                Err(_) => self.process = None,
            }
        }
    }

    /// Tells the host that everything was passed on. The kernel delivers what was sent before it closes.
    fn end_output(&mut self) {
        if let Some(host) = self.host.take() {
            let _ = rustix::net::shutdown(&host, Shutdown::Write);
        }
    }
}

/// Whether a connection is closed for both directions. Sending nothing fails then, and only then.
pub(crate) fn has_vanished(connection: &OwnedFd) -> bool {
    let sent = rustix::net::send(connection, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    matches!(sent, Err(error) if error != Errno::AGAIN && error != Errno::INTR)
}
