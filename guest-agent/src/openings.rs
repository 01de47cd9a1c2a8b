//! What connections say they are, and streams that come before their process.

use std::os::fd::OwnedFd;
use std::time::Instant;

use capsid_protocol::{
    ControlAccepted, ErrorCode, Opening, OpeningReply, ProcessId, SPOKEN, StreamKind, VersionRange,
};
use rustix::event::PollFlags;

use crate::control::{Arrival, Control, Newcomer};
use crate::error::refusal;
use crate::processes::Phase;
use crate::sandbox::Sandbox;
use crate::server::Server;
use crate::streams::{Side, Stream, has_vanished};

/// Streams that wait for their process; what the host asks for beyond it is refused.
const MAX_PARKED: usize = 64;

/// Streams that were opened before their process was started.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    waiting: Vec<ParkedStream>,
}

#[derive(Debug)]
struct ParkedStream {
    process: ProcessId,
    kind: StreamKind,
    connection: OwnedFd,
    early: Vec<u8>,
}

impl Parked {
    /// Whether one more may wait.
    fn admits(&mut self, process: ProcessId, kind: StreamKind) -> Result<(), OpeningReply> {
        self.waiting.retain(|parked| !has_vanished(&parked.connection));
        if self.waiting.iter().any(|parked| parked.process == process && parked.kind == kind) {
            return Err(refused(ErrorCode::Conflict, "the stream has a connection"));
        }
        if self.waiting.len() >= MAX_PARKED {
            return Err(refused(ErrorCode::InvalidState, "too many streams wait for their process"));
        }
        Ok(())
    }

    /// Gives a process's streams the connections that waited for them; others that waited for it are closed.
    pub(crate) fn attach(&mut self, process: ProcessId, streams: &mut [Stream]) {
        let (ours, others): (Vec<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|parked| parked.process == process);
        self.waiting = others;
        for parked in ours {
            if let Some(stream) = streams.iter_mut().find(|stream| stream.kind() == parked.kind) {
                // A new stream has no connection that this could collide with.
                let _ = stream.attach(parked.connection, &parked.early);
            }
        }
    }

    /// Closes what waits for a process that will not come.
    pub(crate) fn forget(&mut self, process: ProcessId) {
        self.waiting.retain(|parked| parked.process != process);
    }
}

fn refused(code: ErrorCode, message: &str) -> OpeningReply {
    OpeningReply::Refused(refusal(code, message))
}

impl<S: Sandbox> Server<S> {
    /// Reads what a newcomer says.
    pub(crate) fn meet(&mut self, place: usize) {
        let Some(mut newcomer) = self.newcomers.get_mut(place).and_then(Option::take) else { return };
        match newcomer.read() {
            Arrival::NotYet => self.newcomers[place] = Some(newcomer),
            Arrival::Gone => {}
            Arrival::Opened(Opening::Control { speaks }, early) => {
                self.accept_control(newcomer, speaks, &early)
            }
            Arrival::Opened(Opening::Stream { process, stream }, early) => {
                self.accept_stream(newcomer, process, stream, early);
            }
        }
    }

    /// A new control connection takes the place of the old one, whose host program may have been killed.
    fn accept_control(&mut self, newcomer: Newcomer, speaks: VersionRange, early: &[u8]) {
        let Some(version) = SPOKEN.agree(speaks) else {
            let message = format!(
                "the agent speaks versions {} to {}, the host {} to {}",
                SPOKEN.oldest.0, SPOKEN.newest.0, speaks.oldest.0, speaks.newest.0
            );
            newcomer.reply(&refused(ErrorCode::Unsupported, &message));
            return;
        };
        let reply = OpeningReply::Control(ControlAccepted { version });
        if let Some(connection) = newcomer.reply(&reply) {
            // Inputs that have just lost their connection lost it with the old host program.
            self.processes.iter_mut().flat_map(|p| &mut p.streams).for_each(|stream| stream.settle(false));
            self.control_count += 1;
            self.processes.forget_waiters_but_of(self.control_count);
            self.control = Some(Control::new(connection, self.control_count, early));
            self.handle_requests();
        }
    }

    fn accept_stream(&mut self, newcomer: Newcomer, id: ProcessId, kind: StreamKind, early: Vec<u8>) {
        let Some(process) = self.processes.get_mut(id) else {
            return self.park(newcomer, id, kind, early);
        };
        let ended = matches!(process.phase, Phase::Ended(_));
        match process.streams.iter_mut().find(|stream| stream.kind() == kind) {
            Some(stream) if stream.is_taken() => {
                newcomer.reply(&refused(ErrorCode::Conflict, "the stream has a connection"));
            }
            Some(stream) => {
                if let Some(connection) = newcomer.reply(&OpeningReply::Stream) {
                    let _ = stream.attach(connection, &early);
                    stream.pump(Side::Host, PollFlags::empty(), Instant::now(), &mut self.scratch);
                }
            }
            // Everything of it was taken: the rest is its end.
            None if ended => drop(newcomer.reply(&OpeningReply::Stream)),
            None => {
                newcomer
                    .reply(&refused(ErrorCode::NotFound, "the process has no such stream, or has closed it"));
            }
        }
    }

    fn park(&mut self, newcomer: Newcomer, process: ProcessId, kind: StreamKind, early: Vec<u8>) {
        if let Err(reply) = self.parked.admits(process, kind) {
            newcomer.reply(&reply);
            return;
        }
        if let Some(connection) = newcomer.reply(&OpeningReply::Stream) {
            self.parked.waiting.push(ParkedStream { process, kind, connection, early });
        }
    }
}
