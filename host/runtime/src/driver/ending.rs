//! Ends: asked for or not, and what follows them.
//!
//! ```text
//!  stop: signal ──grace──▶ SIGKILL ──10 s──▶ the plug is pulled
//!                 every step is cut short by the end itself
//! ```

use std::sync::Arc;
use std::time::Duration;

use capsid_protocol::ExitReport;
use jiff::Timestamp;

use super::{Driver, Happened, Message, Order, Outcome, Reply, RunNotes, answer, answer_all};
use crate::error::{ContainerError, describe};
use crate::lifecycle::{Ending, Next, Phase, Refused, Request, after_end};
use crate::live::Live;
use crate::record::SIGKILL;
use crate::sandbox::SandboxError;

/// How long a killed process may take to be gone, before its machine is ended under it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code of a container whose machine ended under it: as after SIGKILL.
const MACHINE_ENDED: u8 = 137;

/// What a person is told whose container exceeded its memory.
const OUT_OF_MEMORY: &str = "the container ran out of memory, and the guest's kernel killed a process of it";

/// A stop that is under way.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    replies: Vec<Reply>,
}

/// What follows the end that is awaited. Those who asked for it wait among the driver's replies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum AfterEnd {
    /// What the restart policy says.
    #[default]
    Policy,
    /// A start: it was restarted by hand.
    Start,
    /// Removal.
    Remove,
}

impl Driver {
    /// Begins to stop the container, or joins the stop that is under way.
    pub(super) fn stop(&mut self, signal: Option<i32>, grace_s: Option<i64>, reply: Option<Reply>) {
        let Some(live) = self.live.clone() else {
            if let Some(reply) = reply {
                answer(reply, Ok(Outcome::AlreadySo));
            }
            return;
        };
        self.record.state.by_hand = true;
        self.commit(false);
        self.stopping.get_or_insert_default().replies.extend(reply);
        let signal = signal.unwrap_or(self.record.life.stop_signal.0);
        let grace = self.record.life.stop_grace(grace_s);
        let run = self.record.state.run;
        self.tell("kill", &[("signal", signal.to_string())]);
        send(live, signal);
        if let Some(grace) = grace {
            self.report_later(grace, Happened::GraceOver { run });
        }
    }

    /// The process was asked to end for good: if it does not, its machine is.
    pub(super) fn expect_end(&self) {
        self.report_later(KILL_TIMEOUT, Happened::KillFailed { run: self.record.state.run });
    }

    pub(super) fn grace_over(&mut self) {
        if self.stopping.is_none() {
            return;
        }
        if let Some(live) = self.live.clone() {
            self.tell("kill", &[("signal", SIGKILL.to_string())]);
            send(live, SIGKILL);
            self.expect_end();
        }
    }

    pub(super) fn pull_the_plug(&mut self) {
        if let Some(live) = self.live.clone().filter(|_| self.phase() != Phase::Ending) {
            tracing::warn!(container = %self.record.id.short(), "its process does not end: ending its machine");
            tokio::spawn(async move { live.sandbox.stop().await });
        }
    }

    /// Removal by force of what runs: the machine is ended at once, since nothing of it is to be kept.
    pub(super) fn end_then(&mut self, order: Order, reply: Reply) {
        debug_assert!(matches!(order, Order::Remove { .. }));
        if self.after_end == AfterEnd::Start {
            // Whoever waits for the start that will not come is told so.
            let (container, request) = (self.called(), Request::Restart);
            let refused = ContainerError::Refused { container, request, refused: Refused::IsRemoved };
            answer_all(std::mem::take(&mut self.replies), Err(refused));
        }
        self.replies.push(reply);
        if std::mem::replace(&mut self.after_end, AfterEnd::Remove) == AfterEnd::Remove {
            return;
        }
        self.record.state.by_hand = true;
        self.tell("kill", &[("signal", SIGKILL.to_string())]);
        if let Some(live) = self.live.clone() {
            tokio::spawn(async move { live.sandbox.stop().await });
        }
    }

    /// The process ended, or the machine did under it.
    pub(super) fn ended(&mut self, end: Result<ExitReport, SandboxError>) {
        let Some(live) = self.live.clone() else { return };
        if !matches!(self.phase(), Phase::Running | Phase::Paused) {
            return;
        }
        self.end_probes();
        let by_force = self.after_end == AfterEnd::Remove;
        let state = &mut self.record.state;
        state.phase = Phase::Ending;
        let machine_stands = end.is_ok();
        let mut timeline = live.timeline.clone();
        match &end {
            Ok(report) => timeline.guest("process-exited", report.at_us),
            Err(_) => timeline.reached("machine-lost"),
        }
        match end {
            Ok(report) => {
                state.exit_code = report.status.exit_code();
                state.oom_killed = report.oom_killed;
                state.error = String::new();
            }
            Err(error) => {
                state.exit_code = MACHINE_ENDED;
                state.error = if by_force { String::new() } else { describe(&error) };
            }
        }
        let notices = if state.oom_killed { vec![OUT_OF_MEMORY.to_owned()] } else { Vec::new() };
        self.last_run = Some(Arc::new(RunNotes { engine: live.sandbox.engine(), timeline, notices }));
        self.commit(false);
        self.streams.current().process_ended();
        let keeps = !by_force && !self.record.life.auto_remove;
        let run = self.record.state.run;
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let error = wind_down(&live, machine_stands, keeps).await;
            let _ = reports.send(Message::Happened(Box::new(Happened::WoundDown { run, error })));
        });
    }

    /// Nothing of the run is left: writes its end down, tells everybody, and does what follows.
    pub(super) fn wound_down(&mut self, error: Option<SandboxError>) {
        self.live = None;
        self.ends += 1;
        if let Some(notes) = &mut self.last_run {
            Arc::make_mut(notes).timeline.reached("machine-ended");
        }
        if let Some(error) = error {
            // What the process wrote last may not be on its disk.
            self.record.state.error = describe(&error);
        }
        let state = &mut self.record.state;
        state.phase = Phase::Exited;
        state.finished_at = Some(Timestamp::now());
        state.machine = None;
        let after = std::mem::take(&mut self.after_end);
        let next = self.follow(after);
        if let Next::Restart { after } = next {
            self.record.state.phase = Phase::Restarting;
            self.record.state.restart_delay_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        }
        self.commit(true);
        self.streams.renew();
        let code = self.record.state.exit_code.to_string();
        if self.record.state.oom_killed {
            self.tell("oom", &[]);
        }
        let seconds = self.started.elapsed().as_secs().to_string();
        self.tell("die", &[("execDuration", seconds), ("exitCode", code)]);
        let stopped = self.stopping.take();
        if stopped.is_some() {
            self.tell("stop", &[]);
        }
        answer_all(stopped.into_iter().flat_map(|stopping| stopping.replies), Ok(Outcome::Done));
        self.go_on(after, next);
    }

    pub(super) fn follow(&self, after: AfterEnd) -> Next {
        let state = &self.record.state;
        match after {
            AfterEnd::Start | AfterEnd::Remove => Next::Stay,
            AfterEnd::Policy => after_end(
                self.record.life.restart,
                self.record.life.auto_remove,
                Ending {
                    failed: state.exit_code != 0,
                    by_hand: state.by_hand,
                    ran_for: self.started.elapsed(),
                    restarts: state.restarts,
                    last_delay: Duration::from_millis(state.restart_delay_ms),
                },
            ),
        }
    }

    fn go_on(&mut self, after: AfterEnd, next: Next) {
        match after {
            AfterEnd::Start => {
                self.record.state.restarts = 0;
                self.tell_restart = true;
                return self.launch();
            }
            AfterEnd::Remove => return self.begin_removal(),
            AfterEnd::Policy => {}
        }
        match next {
            Next::Stay => {}
            Next::Remove => self.begin_removal(),
            Next::Restart { after } => self.await_restart(after),
        }
    }

    pub(super) fn await_restart(&mut self, after: Duration) {
        self.restart_ticket += 1;
        self.report_later(after, Happened::RestartDue { ticket: self.restart_ticket });
    }

    pub(super) fn restart_due(&mut self) {
        if self.phase() == Phase::Restarting {
            self.record.state.restarts = self.record.state.restarts.saturating_add(1);
            self.launch();
        }
    }

    /// A request came while the container waited to be restarted by its policy.
    pub(super) fn cancel_restart(&mut self, order: Order, reply: Reply) {
        self.restart_ticket += 1;
        self.record.state.phase = Phase::Exited;
        self.record.state.by_hand = true;
        match order {
            Order::Restart { .. } => self.perform(Order::Start, reply),
            Order::Remove { .. } => self.remove(reply),
            Order::Start
            | Order::Stop { .. }
            | Order::Kill { .. }
            | Order::Pause
            | Order::Unpause
            | Order::Rename { .. }
            | Order::Files { .. }
            | Order::Update { .. } => {
                self.commit(true);
                self.tell("stop", &[]);
                answer(reply, Ok(Outcome::Done));
                if self.record.life.auto_remove {
                    self.begin_removal();
                }
            }
        }
    }

    /// Answers everybody who waits for a start or a removal.
    pub(super) fn answer_waiting(&mut self, result: Result<(), ContainerError>) {
        answer_all(std::mem::take(&mut self.replies), result.map(|()| Outcome::Done));
    }
}

/// A process that has just ended needs no signal.
fn send(live: Arc<Live>, signal: i32) {
    tokio::spawn(async move { drop(live.signal(signal).await) });
}

/// Waits for the last of the output, then ends the machine; with everything on its disk if that is to be kept.
async fn wind_down(live: &Live, machine_stands: bool, keeps: bool) -> Option<SandboxError> {
    live.output_finished().await;
    live.log.end_run();
    let error = if machine_stands && keeps {
        live.sandbox.shut_down().await.err()
    } else {
        live.sandbox.stop().await;
        None
    };
    live.sandbox.clear();
    error
}
