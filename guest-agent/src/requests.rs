//! What the host asks for, and the events that answer it later.

use std::time::{Duration, Instant};

use capsid_protocol::{
    ErrorCode, ExitReport, FrameAssembler, PreparedRoot, ProcessId, ProcessSpec, Refusal, Request, Response,
    TerminalSize,
};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::boot::now_us;
use crate::control::Asker;
use crate::error::{chain, kernel_words, refusal};
use crate::processes::{MAX_LIVE, MAX_WAITERS, Phase, Process, StartOutcome, Starting};
use crate::sandbox::Sandbox;
use crate::server::Server;
use crate::{stdio, sys};

/// How long a shutdown waits for killed processes to end: one that hangs in the kernel must not keep the machine.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long the host has to take the answer to its shutdown and to close the control connection, before the
/// machine goes anyway.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(250);
/// What one child can report at most.
const MAX_STATUS_BYTES: usize = 64 << 10;
/// Signals of Linux (`_NSIG`).
const MAX_SIGNAL: i32 = 64;

/// How far a shutdown has come.
#[derive(Debug)]
pub(crate) enum Closing {
    /// Everything was killed; waits for the last to be reaped.
    Reaping(Asker, Instant),
    /// Closed and answered; waits for the host to take the answer.
    Farewell(Instant),
}

impl Closing {
    /// When it goes on whatever has happened.
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Closing::Reaping(_, until) | Closing::Farewell(until) => *until,
        }
    }
}

impl<S: Sandbox> Server<S> {
    /// Reads from and writes to the control connection.
    pub(crate) fn talk(&mut self, events: PollFlags) {
        let Some(control) = &mut self.control else { return };
        let mut outcome = control.flush();
        if outcome.is_ok() && events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            outcome = control.read(&mut self.scratch);
        }
        if outcome.is_err() {
            self.control = None;
        } else {
            self.handle_requests();
        }
    }

    /// Handles every request that has arrived whole.
    pub(crate) fn handle_requests(&mut self) {
        while let Some(control) = &mut self.control {
            match control.next_request() {
                Ok(Some((asker, request))) => self.handle(asker, request),
                Ok(None) => return,
                Err(error) => {
                    crate::log(&format!("the control connection ends: {}", chain(&error)));
                    self.control = None;
                }
            }
        }
    }

    fn handle(&mut self, asker: Asker, request: Request) {
        let answer = match request {
            _ if self.closing.is_some() => {
                Some(Err(refusal(ErrorCode::InvalidState, "the machine is shutting down")))
            }
            Request::PrepareRoot(request) => Some(self.sandbox.prepare(&request).map(|child| {
                self.reaper.watch(ProcessId::INIT, child);
                Response::Prepared(PreparedRoot { at_us: now_us() })
            })),
            Request::StartProcess(spec) => self.start(asker, &spec).err().map(Err),
            Request::Signal { process, signal } => Some(self.signal(process, signal)),
            Request::Resize { process, size } => Some(self.resize(process, size)),
            Request::Wait { process } => self.wait_for(asker, process),
            Request::Processes => Some(self.sandbox.processes().map(Response::Processes)),
            Request::Statistics => {
                Some(self.sandbox.statistics().map(|found| Response::Statistics(Box::new(found))))
            }
            Request::SetLimits(changes) => Some(self.sandbox.set_limits(&changes).map(|()| Response::Done)),
            Request::Shutdown => {
                self.sandbox.kill();
                self.reaper.kill_workers();
                self.closing = Some(Closing::Reaping(asker, Instant::now() + KILL_PATIENCE));
                None
            }
        };
        if let Some(answer) = answer {
            self.answer(asker, &answer.unwrap_or_else(Response::Failed));
        }
    }

    /// Answers a request if its connection is still the one.
    fn answer(&mut self, asker: Asker, response: &Response) {
        let Some(control) = self.control.as_mut().filter(|control| control.number() == asker.connection)
        else {
            return;
        };
        if control.answer(asker.request, response).is_err() {
            self.control = None;
        }
    }

    /// Answered when the child has reported.
    fn start(&mut self, asker: Asker, spec: &ProcessSpec) -> Result<(), Refusal> {
        let id = spec.process;
        let known = self.processes.get(id).is_some();
        let checked = check(spec, known, self.processes.live());
        let launched = checked.and_then(|()| self.sandbox.start(spec));
        let mut launched = launched.inspect_err(|_| {
            if !known {
                self.parked.forget(id);
            }
        })?;
        self.parked.attach(id, &mut launched.streams, &mut self.scratch);
        if let Some(child) = launched.child {
            self.reaper.watch(id, child);
        }
        // A descriptor that blocks would only block on a child that writes half a frame; it does not.
        let _ = stdio::set_nonblocking(std::os::fd::AsFd::as_fd(&launched.status));
        let assembler = FrameAssembler::with_limit(MAX_STATUS_BYTES);
        let starting = Starting { status: launched.status, assembler, asker };
        let phase = Phase::Starting(starting);
        self.processes.insert(id, Process { phase, streams: launched.streams, waiters: Vec::new() });
        Ok(())
    }

    /// A child reports, or its program has begun.
    pub(crate) fn read_status(&mut self, id: ProcessId) {
        self.decide_start(id, ChildState::Lives);
    }

    fn decide_start(&mut self, id: ProcessId, child: ChildState) {
        let Some(process) = self.processes.get_mut(id) else { return };
        let Phase::Starting(starting) = &mut process.phase else { return };
        let mut bytes = [0; 1024];
        loop {
            match rustix::io::read(&starting.status, &mut bytes) {
                Ok(count) if count > 0 => starting.assembler.push(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if child == ChildState::Lives => return,
                // Somebody else may still hold the other end for a moment; a child that has ended says no more.
                Ok(_) | Err(_) => break,
            }
        }
        let Phase::Starting(starting) = std::mem::replace(&mut process.phase, Phase::Running) else { return };
        let asker = starting.asker;
        let response = match starting.outcome() {
            StartOutcome::Runs(mut started) => {
                started.at_us = now_us();
                return self.answer(asker, &Response::Started(started));
            }
            StartOutcome::Refused(refusal) => Response::Failed(refusal),
            StartOutcome::Vanished => Response::Failed(refusal(
                ErrorCode::Internal,
                "the process was killed before its program began",
            )),
        };
        // Whoever waited for it already learns that there is no such process.
        let forgotten = self.processes.remove(id);
        self.answer(asker, &response);
        for waiter in forgotten.map(|process| process.waiters).unwrap_or_default() {
            self.answer(waiter, &Response::Failed(no_such_process(id)));
        }
    }

    /// A child has ended.
    pub(crate) fn reap(&mut self, pid: i32) {
        let Some((id, status)) = self.reaper.reap(pid) else { return };
        // A start is decided before its end is told.
        self.decide_start(id, ChildState::Ended);
        let oom_killed = self.sandbox.oom_killed();
        let Some(process) = self.processes.get_mut(id) else { return };
        let report = ExitReport { status, at_us: now_us(), oom_killed };
        process.phase = Phase::Ended(report.clone());
        process.streams.process_ended(Instant::now());
        for waiter in std::mem::take(&mut process.waiters) {
            self.answer(waiter, &Response::Exited(report.clone()));
        }
    }

    fn wait_for(&mut self, asker: Asker, id: ProcessId) -> Option<Result<Response, Refusal>> {
        let waiters = self.processes.waiters();
        match self.processes.get_mut(id) {
            None => Some(Err(no_such_process(id))),
            Some(Process { phase: Phase::Ended(report), .. }) => Some(Ok(Response::Exited(report.clone()))),
            Some(_) if waiters >= MAX_WAITERS => {
                Some(Err(refusal(ErrorCode::InvalidState, "too many waits are under way")))
            }
            Some(process) => {
                process.waiters.push(asker);
                None
            }
        }
    }

    fn signal(&mut self, id: ProcessId, signal: i32) -> Result<Response, Refusal> {
        if !(0..=MAX_SIGNAL).contains(&signal) {
            return Err(refusal(ErrorCode::InvalidArgument, format!("there is no signal {signal}")));
        }
        self.check_running(id)?;
        let pid = self.reaper.pid(id).ok_or_else(|| has_ended(id))?;
        match sys::process::send_signal(pid, signal) {
            Ok(()) => Ok(Response::Done),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(has_ended(id)),
            Err(error) => Err(refusal(ErrorCode::Internal, kernel_words(&error.to_string()))),
        }
    }

    fn resize(&mut self, id: ProcessId, size: TerminalSize) -> Result<Response, Refusal> {
        self.check_running(id)?;
        let terminal = self.processes.get(id).and_then(|process| process.streams.terminal());
        let terminal =
            terminal.ok_or_else(|| refusal(ErrorCode::InvalidState, "the process has no terminal"))?;
        stdio::set_size(terminal, size)
            .map_err(|error| refusal(ErrorCode::Internal, kernel_words(&error.to_string())))?;
        Ok(Response::Done)
    }

    fn check_running(&self, id: ProcessId) -> Result<(), Refusal> {
        match self.processes.get(id) {
            None => Err(no_such_process(id)),
            Some(Process { phase: Phase::Ended(_), .. }) => Err(has_ended(id)),
            Some(Process { phase: Phase::Starting(_) | Phase::Running, .. }) => Ok(()),
        }
    }

    /// Takes the next step of a shutdown, if one is under way and its time has come.
    pub(crate) fn go_on_closing(&mut self) {
        let Some(Closing::Reaping(asker, until)) = &self.closing else { return };
        let (asker, until) = (*asker, *until);
        if self.reaper.is_empty() || Instant::now() >= until {
            self.sandbox.close();
            self.answer(asker, &Response::Done);
            self.closing = Some(Closing::Farewell(Instant::now() + FAREWELL_PATIENCE));
        }
    }

    /// Whether a shutdown has been answered, and the host has taken the answer or its time.
    pub(crate) fn is_finished(&self) -> bool {
        match &self.closing {
            Some(Closing::Farewell(until)) => self.control.is_none() || Instant::now() >= *until,
            Some(Closing::Reaping(..)) | None => false,
        }
    }
}

/// Whether a child that was started can still report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChildState {
    Lives,
    Ended,
}

fn check(spec: &ProcessSpec, known: bool, live: usize) -> Result<(), Refusal> {
    if spec.args.first().is_none_or(String::is_empty) {
        return Err(refusal(ErrorCode::InvalidArgument, "there is no program to start"));
    }
    if known {
        return Err(refusal(ErrorCode::Conflict, format!("process {} was started already", spec.process.0)));
    }
    if live >= MAX_LIVE {
        return Err(refusal(ErrorCode::InvalidState, format!("{MAX_LIVE} processes run already")));
    }
    Ok(())
}

fn no_such_process(id: ProcessId) -> Refusal {
    refusal(ErrorCode::NotFound, format!("there is no process {}", id.0))
}

fn has_ended(id: ProcessId) -> Refusal {
    refusal(ErrorCode::InvalidState, format!("process {} has ended", id.0))
}
