//! The launcher's side of a machine, whatever its engine: control socket, lifeline and report, in one thread.
//!
//! Nothing here waits for the guest or for a client: every descriptor is polled, every client has one request and
//! one reply in hand at most, and the one that was quiet longest makes room for a new one.
//!
//! ```text
//!            ended by itself, lifeline closed, Stop
//!  serving ────────────────────────────────────────▶ report written ──▶ process exits
//! ```

mod client;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};

use crate::control::{ControlReply, ControlRequest, EndCause, EndReport, MachineState};
use crate::engine::{EngineError, RunningMachine, describe};
use crate::observer::Observer;
use crate::parts::LauncherSide;
use client::Client;

/// Most clients of the control socket at once.
const MAX_CLIENTS: usize = 16;

/// Builds a machine with `start`, serves its launcher until it ends, writes the report, and tells how the process
/// is to exit: 0 when the machine ended, 1 when it failed or could not be built.
pub fn run<M: RunningMachine>(
    launcher: LauncherSide,
    observer: &Observer,
    start: impl FnOnce(&Observer) -> Result<M, EngineError>,
) -> ExitCode {
    let cause = match start(observer) {
        Ok(machine) => Supervisor::new(machine, &launcher, observer).serve_until_end(),
        Err(error) => Ok(EndCause::Failed { message: describe(error.as_ref()) }),
    };
    let cause = cause.unwrap_or_else(|error| EndCause::Failed {
        message: format!("failed to serve the control socket: {error}"),
    });
    let failed = matches!(cause, EndCause::Failed { .. });
    if let EndCause::Failed { message } = &cause {
        eprintln!("capsid-vmm: {message}");
    }
    write_report(&launcher, observer, cause);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A launcher that left does not read; one that is slow is waited for, with the guest stopped.
fn write_report(launcher: &LauncherSide, observer: &Observer, cause: EndCause) {
    let report = EndReport { cause, console: observer.console_text(), milestones: observer.milestones() };
    let written = serde_json::to_vec(&report).map_err(io::Error::from).and_then(|mut line| {
        line.push(b'\n');
        (&launcher.report).write_all(&line)
    });
    if let Err(error) = written {
        eprintln!("capsid-vmm: failed to write the report: {error}");
    }
}

struct Supervisor<'a, M> {
    machine: M,
    state: MachineState,
    launcher: &'a LauncherSide,
    lifeline: Option<&'a OwnedFd>,
    observer: &'a Observer,
    /// The one that was quiet longest is first.
    clients: Vec<Client>,
}

impl<'a, M: RunningMachine> Supervisor<'a, M> {
    fn new(machine: M, launcher: &'a LauncherSide, observer: &'a Observer) -> Self {
        let lifeline = launcher.lifeline.as_ref();
        Supervisor {
            machine,
            state: MachineState::Running,
            launcher,
            lifeline,
            observer,
            clients: Vec::new(),
        }
    }

    fn serve_until_end(mut self) -> io::Result<EndCause> {
        self.launcher.control.set_nonblocking(true)?;
        loop {
            let ready = self.wait()?;
            if ready.ended {
                let cause = self.machine.end_cause();
                self.machine.stop();
                return Ok(cause);
            }
            if ready.lifeline && self.lifeline_closed() {
                self.machine.stop();
                return Ok(EndCause::LauncherGone);
            }
            if self.serve_clients(&ready.clients) {
                self.machine.stop();
                return Ok(EndCause::Stopped);
            }
            if ready.control {
                self.accept();
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut polled = Vec::with_capacity(3 + self.clients.len());
        polled.push(PollFd::from_borrowed_fd(self.machine.ended(), PollFlags::IN));
        polled.push(PollFd::from_borrowed_fd(self.launcher.control.as_fd(), PollFlags::IN));
        for client in &self.clients {
            polled.push(PollFd::from_borrowed_fd(client.as_fd(), client.interest()));
        }
        let lifeline: Option<BorrowedFd<'_>> = self.lifeline.map(AsFd::as_fd);
        if let Some(lifeline) = lifeline {
            polled.push(PollFd::from_borrowed_fd(lifeline, PollFlags::IN));
        }
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            other => other?,
        };
        let fired: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        Ok(Ready {
            ended: fired[0],
            control: fired[1],
            clients: fired[2..2 + self.clients.len()].to_vec(),
            lifeline: lifeline.is_some() && fired.last() == Some(&true),
        })
    }

    /// What a launcher writes into the lifeline means nothing; only its end counts.
    fn lifeline_closed(&self) -> bool {
        let mut ignored = [0; 64];
        let read = self.lifeline.map(|lifeline| rustix::io::read(lifeline, &mut ignored));
        match read {
            None | Some(Ok(1..) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN)) => false,
            Some(Ok(0) | Err(_)) => true,
        }
    }

    /// Whether a client asked for the end.
    fn serve_clients(&mut self, ready: &[bool]) -> bool {
        let mut quiet = Vec::with_capacity(self.clients.len() + 1);
        let mut served = Vec::new();
        let mut stop = false;
        for (index, mut client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            if !ready.get(index).copied().unwrap_or(false) {
                quiet.push(client);
                continue;
            }
            let open = client.serve(|request| {
                stop |= request == ControlRequest::Stop;
                self.answer(request)
            });
            if open {
                served.push(client);
            }
        }
        quiet.append(&mut served);
        self.clients = quiet;
        stop
    }

    fn answer(&mut self, request: ControlRequest) -> ControlReply {
        let (done, state) = match request {
            ControlRequest::State => {
                return ControlReply::State { state: self.state, milestones: self.observer.milestones() };
            }
            ControlRequest::Console => return ControlReply::Console { text: self.observer.console_text() },
            ControlRequest::Stop => return ControlReply::Done,
            ControlRequest::Detach => {
                self.lifeline = None;
                return ControlReply::Done;
            }
            ControlRequest::Pause => (self.machine.pause(), MachineState::Paused),
            ControlRequest::Resume => (self.machine.resume(), MachineState::Running),
        };
        match done {
            Ok(()) => {
                self.state = state;
                ControlReply::Done
            }
            Err(error) => ControlReply::Failed { message: describe(error.as_ref()) },
        }
    }

    /// Out of descriptors is no reason to end the machine: the client that was quiet longest is let go, and the
    /// next turn tries again.
    fn accept(&mut self) {
        match self.launcher.control.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                if self.clients.len() == MAX_CLIENTS {
                    self.clients.remove(0);
                }
                self.clients.push(Client::new(stream));
            }
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) && !self.clients.is_empty() => {
                self.clients.remove(0);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

#[derive(Default)]
struct Ready {
    ended: bool,
    control: bool,
    lifeline: bool,
    clients: Vec<bool>,
}

#[cfg(test)]
mod tests;
