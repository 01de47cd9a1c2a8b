//! The input of a process: what the host sends goes to its stdin or its terminal.
//!
//! A newer connection replaces an older one, whether or not that still stands. Buffers are bounded: what one read
//! brought is gone before the next read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::{ROUNDS, Side, has_vanished};

/// How long a control connection must outlive an input's connection that was closed for both directions, for that
/// to be the end of the input: a host that is killed loses both at once, give or take the way through the monitor.
const VANISH_GRACE: Duration = Duration::from_millis(150);

/// What the input leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    /// A pipe, which has an end.
    Stdin,
    /// A terminal, which has none.
    Terminal,
}

/// The input.
#[derive(Debug)]
pub(crate) struct Input {
    kind: InputKind,
    /// `None` once it has ended.
    process: Option<OwnedFd>,
    host: Option<OwnedFd>,
    leftover: Leftover,
    /// When the connection of a stdin was closed for both directions, until it is known why.
    vanished_at: Option<Instant>,
}

impl Input {
    /// The input at the agent's end of a pipe, which does not block.
    pub(crate) fn stdin(pipe: OwnedFd) -> Self {
        Self::new(InputKind::Stdin, pipe)
    }

    /// The input at the agent's end of a terminal, which does not block.
    pub(crate) fn terminal(terminal: OwnedFd) -> Self {
        Self::new(InputKind::Terminal, terminal)
    }

    fn new(kind: InputKind, process: OwnedFd) -> Self {
        Self { kind, process: Some(process), host: None, leftover: Leftover::default(), vanished_at: None }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.process.is_none()
    }

    /// Takes a connection, which does not block, and the bytes that were read from it already.
    pub(crate) fn attach(&mut self, connection: OwnedFd, early: &[u8]) {
        self.host = Some(connection);
        self.vanished_at = None;
        self.leftover.keep(early);
    }

    /// When [`Input::settle`] must be called.
    pub(crate) fn settle_at(&self) -> Option<Instant> {
        self.vanished_at.filter(|_| self.leftover.is_empty()).map(|at| at + VANISH_GRACE)
    }

    /// Decides what the end of a stdin's connection meant. `host_stands`: the control connection of that moment is
    /// still there, so the host closed the input on purpose; otherwise it was killed, and may come back to it.
    pub(crate) fn settle(&mut self, host_stands: bool) {
        if self.vanished_at.take().is_some() && host_stands {
            self.end();
        }
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(Side, BorrowedFd<'a>, PollFlags)) {
        let has_leftover = !self.leftover.is_empty();
        // poll reports hang-ups whether asked or not: whoever cannot act on one must not be in the list. An idle
        // stdin is there for its hang-up alone: the process has closed it.
        let watch_close = self.kind == InputKind::Stdin && self.host.is_some();
        if let Some(process) = self.process.as_ref().filter(|_| has_leftover || watch_close) {
            let events = if has_leftover { PollFlags::OUT } else { PollFlags::empty() };
            add(Side::Process, process.as_fd(), events);
        }
        if let Some(host) = self.host.as_ref().filter(|_| !has_leftover) {
            add(Side::Host, host.as_fd(), PollFlags::IN);
        }
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn pump(&mut self, side: Side, events: PollFlags, now: Instant, scratch: &mut [u8]) {
        let had_host = self.host.is_some();
        self.move_on(scratch);
        let hung_up = events.intersects(PollFlags::HUP | PollFlags::ERR);
        match side {
            Side::Process if hung_up && self.kind == InputKind::Stdin => self.end(),
            Side::Host if hung_up && self.host.as_ref().is_some_and(has_vanished) => self.host = None,
            Side::Process | Side::Host => {}
        }
        let is_lost = had_host && self.host.is_none() && self.process.is_some();
        if is_lost && self.kind == InputKind::Stdin {
            self.vanished_at = Some(now);
        }
    }

    fn move_on(&mut self, scratch: &mut [u8]) {
        for _ in 0..ROUNDS {
            let Some(process) = &self.process else { return };
            let write = |bytes: &[u8]| rustix::io::write(process, bytes);
            if self.leftover.flush(write).is_err() {
                return self.end();
            }
            let Some(host) = self.host.as_ref().filter(|_| self.leftover.is_empty()) else { return };
            match rustix::io::read(host, &mut *scratch) {
                Ok(0) => return self.host_ended(),
                Ok(count) => {
                    if self.leftover.write_or_keep(&scratch[..count], write).is_err() {
                        return self.end();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.host = None,
            }
        }
    }

    /// A half-closed connection is the end of a stdin; one that is gone for both directions is a host that vanished,
    /// and may come back.
    fn host_ended(&mut self) {
        if self.kind == InputKind::Stdin && !self.host.as_ref().is_some_and(has_vanished) {
            self.end();
        } else {
            self.host = None;
        }
    }

    /// No more input. A terminal stays: it has output too.
    fn end(&mut self) {
        self.leftover = Leftover::default();
        if self.kind == InputKind::Stdin {
            self.process = None;
            self.host = None;
        }
    }
}

/// Bytes on their way, written so far up to `written`.
#[derive(Debug, Default)]
struct Leftover {
    bytes: Vec<u8>,
    written: usize,
}

impl Leftover {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes `fresh` at once and keeps what was not taken. Nothing may be kept already.
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
            self.written = 0;
        }
        outcome
    }

    fn flush(&mut self, mut write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
        write_all(&self.bytes, &mut self.written, &mut write)?;
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
