//! What a process reads and writes: its pipes or terminal on one side, connections of the host on the other.
//!
//! A connection may come, vanish and be replaced at any time. Nothing is taken from a process while no connection
//! stands, so one whose host is away waits when its pipe is full. Nothing here blocks, and everything is bounded.
//!
//! Generic over nothing but descriptors: tests use socket pairs.

mod input;
mod output;
#[cfg(test)]
mod tests;
mod window;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use capsid_protocol::{ErrorCode, OutputAccepted, Refusal, StreamKind};
use rustix::event::PollFlags;
use rustix::net::SendFlags;

pub(crate) use input::Input;
pub(crate) use output::Output;

use crate::error::refusal;

/// What one read takes at most.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// Reads of one stream before the others have their turn.
const ROUNDS: usize = 8;

/// Which side of a stream an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The pipe or terminal.
    Process,
    /// The connection.
    Host,
}

/// Which of a process's streams an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// An output.
    Output(StreamKind),
    /// The input.
    Input,
}

/// The streams of one process.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    outputs: Vec<Output>,
    /// How many bytes each output had that is over.
    finished: Vec<(StreamKind, u64)>,
    input: Option<Input>,
}

impl Streams {
    /// The streams of a process that is about to start.
    pub(crate) fn new(outputs: Vec<Output>, input: Option<Input>) -> Self {
        Self { outputs, finished: Vec::new(), input }
    }

    /// Whether nothing is left to be passed on.
    pub(crate) fn are_over(&self) -> bool {
        self.outputs.is_empty() && self.input.is_none()
    }

    /// The agent's end of the process's terminal, while that stands.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.output(StreamKind::Terminal).and_then(Output::process_side)
    }

    fn output(&self, kind: StreamKind) -> Option<&Output> {
        self.outputs.iter().find(|output| output.kind() == kind)
    }

    fn output_mut(&mut self, kind: StreamKind) -> Option<&mut Output> {
        self.outputs.iter_mut().find(|output| output.kind() == kind)
    }

    /// Whether a connection may read an output from a byte on (see [`capsid_protocol::Opening::Output`]), and where the
    /// output stands then.
    ///
    /// # Errors
    ///
    /// There is no such output, or the byte is not one that can be had.
    pub(crate) fn output_from(&self, kind: StreamKind, from: Option<u64>) -> Result<OutputAccepted, Refusal> {
        let finished = self.finished.iter().find(|(finished, _)| *finished == kind);
        let stands = match (self.output(kind), finished) {
            (Some(output), _) => output.stands(),
            (None, Some(&(_, total))) => OutputAccepted { acknowledged: total, produced: total },
            (None, None) => {
                return Err(refusal(ErrorCode::NotFound, "the process has no such output"));
            }
        };
        let from = from.unwrap_or(stands.acknowledged);
        let OutputAccepted { acknowledged, produced } = stands;
        if (acknowledged..=produced).contains(&from) {
            return Ok(OutputAccepted { acknowledged: from, produced });
        }
        let message = format!(
            "byte {from} of the output cannot be had: {acknowledged} are acknowledged, and {produced} were read"
        );
        Err(refusal(ErrorCode::InvalidArgument, message))
    }

    /// Gives an output a connection, which does not block and has been told of `accepted`, and acknowledgements that
    /// were read from it already. The connection of an output that is over is closed: that is its end.
    pub(crate) fn attach_output(
        &mut self,
        kind: StreamKind,
        connection: OwnedFd,
        accepted: OutputAccepted,
        early: &[u8],
    ) {
        if let Some(output) = self.output_mut(kind) {
            output.attach(connection, accepted.acknowledged, early);
            output.pump(Side::Process, Instant::now());
        }
    }

    /// Whether there is an input that takes a connection.
    pub(crate) fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// Gives the input a connection, which does not block, and the bytes that were read from it already.
    pub(crate) fn attach_input(&mut self, connection: OwnedFd, early: &[u8], scratch: &mut [u8]) {
        if let Some(input) = &mut self.input {
            input.attach(connection, early);
            input.pump(Side::Host, PollFlags::empty(), Instant::now(), scratch);
        }
    }

    /// The process has ended: input has nowhere to go, output is what its pipes still hold.
    pub(crate) fn process_ended(&mut self, now: Instant) {
        self.input = None;
        self.outputs.iter_mut().for_each(|output| output.process_ended(now));
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(Which, Side, BorrowedFd<'a>, PollFlags)) {
        for output in &self.outputs {
            output.interests(|side, fd, events| add(Which::Output(output.kind()), side, fd, events));
        }
        if let Some(input) = &self.input {
            input.interests(|side, fd, events| add(Which::Input, side, fd, events));
        }
    }

    /// Moves what can be moved without waiting. `scratch` is [`BUFFER_BYTES`] long and shared by all streams.
    pub(crate) fn pump(&mut self, which: Which, side: Side, events: PollFlags, scratch: &mut [u8]) {
        let now = Instant::now();
        match which {
            Which::Output(kind) => {
                if let Some(output) = self.output_mut(kind) {
                    output.pump(side, now);
                }
            }
            Which::Input => {
                if let Some(input) = &mut self.input {
                    input.pump(side, events, now, scratch);
                }
            }
        }
    }

    /// When [`Streams::tidy`] must be called though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let input = self.input.iter().filter_map(Input::settle_at);
        self.outputs.iter().filter_map(Output::deadline).chain(input).min()
    }

    /// Does what it is time for, and lets go of what is over. `host_stands` as for [`Input::settle`].
    pub(crate) fn tidy(&mut self, now: Instant, host_stands: bool) {
        for output in self.outputs.iter_mut().filter(|o| o.deadline().is_some_and(|at| at <= now)) {
            output.pump(Side::Process, now);
        }
        if self.input.as_ref().and_then(Input::settle_at).is_some_and(|at| at <= now) {
            self.settle_input(host_stands);
        }
        let over = self.outputs.extract_if(.., |output| output.is_over());
        self.finished.extend(over.map(|output| (output.kind(), output.stands().produced)));
        self.input.take_if(|input| input.is_over());
    }

    /// Decides at once what the end of an input's connection meant; see [`Input::settle`].
    pub(crate) fn settle_input(&mut self, host_stands: bool) {
        if let Some(input) = &mut self.input {
            input.settle(host_stands);
        }
    }
}

/// Whether a connection is closed for both directions. Sending nothing fails then, and only then.
pub(crate) fn has_vanished(connection: &OwnedFd) -> bool {
    use rustix::io::Errno;
    let sent = rustix::net::send(connection, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    matches!(sent, Err(error) if error != Errno::AGAIN && error != Errno::INTR)
}
