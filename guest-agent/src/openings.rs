//! What connections say they are, and those of streams that come before their process.

use std::os::fd::OwnedFd;

use capsid_protocol::{
    ControlAccepted, ErrorCode, Opening, OpeningReply, OutputAccepted, ProcessId, Refusal, SPOKEN,
    StreamKind, VersionRange,
};

use crate::control::{Arrival, Control, Newcomer};
use crate::error::refusal;
use crate::processes::Phase;
use crate::sandbox::Sandbox;
use crate::server::Server;
use crate::streams::{Streams, Which, has_vanished};

/// Connections that wait for their process; what the host asks for beyond it is refused.
const MAX_PARKED: usize = 64;
/// Where the output of a process stands that has not started.
const NOTHING_YET: OutputAccepted = OutputAccepted { acknowledged: 0, produced: 0 };

/// Connections of streams that were opened before their process was started.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    waiting: Vec<ParkedConnection>,
}

#[derive(Debug)]
struct ParkedConnection {
    process: ProcessId,
    which: Which,
    connection: OwnedFd,
    early: Vec<u8>,
}

impl Parked {
    /// Makes room for one more. One that waited for the same is closed: the newest stands.
    fn admit(&mut self, process: ProcessId, which: Which) -> Result<(), Refusal> {
        self.waiting.retain(|parked| {
            let is_older = parked.process == process && parked.which == which;
            !is_older && !has_vanished(&parked.connection)
        });
        if self.waiting.len() >= MAX_PARKED {
            return Err(refusal(ErrorCode::InvalidState, "too many streams wait for their process"));
        }
        Ok(())
    }

    /// Gives a process's streams the connections that waited for them; others that waited for it are closed.
    pub(crate) fn attach(&mut self, process: ProcessId, streams: &mut Streams, scratch: &mut [u8]) {
        let ours = self.waiting.extract_if(.., |parked| parked.process == process);
        for ParkedConnection { which, connection, early, .. } in ours {
            match which {
                Which::Output(kind) => streams.attach_output(kind, connection, NOTHING_YET, &early),
                Which::Input => streams.attach_input(connection, &early, scratch),
            }
        }
    }

    /// Closes what waits for a process that will not come.
    pub(crate) fn forget(&mut self, process: ProcessId) {
        self.waiting.retain(|parked| parked.process != process);
    }
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
            Arrival::Opened(Opening::Output { process, stream, from }, early) => {
                self.accept_output(newcomer, process, (stream, from), early);
            }
            Arrival::Opened(Opening::Input { process }, early) => {
                self.accept_input(newcomer, process, early);
            }
            Arrival::Opened(Opening::Files(work), early) => self.accept_files(newcomer, &work, &early),
        }
    }

    /// A new control connection takes the place of the old one, whose host program may have been killed.
    fn accept_control(&mut self, newcomer: Newcomer, speaks: VersionRange, early: &[u8]) {
        let Some(version) = SPOKEN.agree(speaks) else {
            let message = format!(
                "the agent speaks versions {} to {}, the host {} to {}",
                SPOKEN.oldest.0, SPOKEN.newest.0, speaks.oldest.0, speaks.newest.0
            );
            newcomer.reply(&OpeningReply::Refused(refusal(ErrorCode::Unsupported, message)));
            return;
        };
        let reply = OpeningReply::Control(ControlAccepted { version });
        if let Some(connection) = newcomer.reply(&reply) {
            // Inputs that have just lost their connection lost it with the old host program.
            self.processes.iter_mut().for_each(|process| process.streams.settle_input(false));
            self.control_count += 1;
            self.processes.forget_waiters_but_of(self.control_count);
            self.control = Some(Control::new(connection, self.control_count, early));
            self.handle_requests();
        }
    }

    fn accept_output(
        &mut self,
        newcomer: Newcomer,
        id: ProcessId,
        (kind, from): (StreamKind, Option<u64>),
        early: Vec<u8>,
    ) {
        let Some(process) = self.processes.get_mut(id) else {
            return self.park_output(newcomer, id, (kind, from), early);
        };
        match process.streams.output_from(kind, from) {
            Ok(accepted) => {
                if let Some(connection) = newcomer.reply(&OpeningReply::Output(accepted)) {
                    process.streams.attach_output(kind, connection, accepted, &early);
                }
            }
            Err(refusal) => drop(newcomer.reply(&OpeningReply::Refused(refusal))),
        }
    }

    fn park_output(
        &mut self,
        newcomer: Newcomer,
        process: ProcessId,
        (kind, from): (StreamKind, Option<u64>),
        early: Vec<u8>,
    ) {
        if let Some(from @ 1..) = from {
            let message = format!("byte {from} of the output cannot be had: the process has not started");
            newcomer.reply(&OpeningReply::Refused(refusal(ErrorCode::InvalidArgument, message)));
            return;
        }
        self.park(newcomer, process, Which::Output(kind), early, &OpeningReply::Output(NOTHING_YET));
    }

    fn accept_input(&mut self, newcomer: Newcomer, id: ProcessId, early: Vec<u8>) {
        let Some(process) = self.processes.get_mut(id) else {
            return self.park(newcomer, id, Which::Input, early, &OpeningReply::Input);
        };
        if process.streams.has_input() || matches!(process.phase, Phase::Ended(_)) {
            // That of a process that has ended is closed at once: nobody reads it.
            if let Some(connection) = newcomer.reply(&OpeningReply::Input) {
                process.streams.attach_input(connection, &early, &mut self.scratch);
            }
        } else {
            let message = "the process has no input, or has closed it";
            newcomer.reply(&OpeningReply::Refused(refusal(ErrorCode::NotFound, message)));
        }
    }

    fn park(
        &mut self,
        newcomer: Newcomer,
        process: ProcessId,
        which: Which,
        early: Vec<u8>,
        reply: &OpeningReply,
    ) {
        if let Err(refusal) = self.parked.admit(process, which) {
            newcomer.reply(&OpeningReply::Refused(refusal));
        } else if let Some(connection) = newcomer.reply(reply) {
            self.parked.waiting.push(ParkedConnection { process, which, connection, early });
        }
    }
}
