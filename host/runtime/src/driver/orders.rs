//! What a driver does for a request that its policy allows.

use std::sync::Arc;

use capsid_vmm::control::{ControlReply, ControlRequest};

use super::ending::AfterEnd;
use super::{Driver, Happened, Message, Order, Outcome, Reply, answer, answer_all};
use crate::error::ContainerError;
use crate::lifecycle::{Phase, Refused, Request};
use crate::live::Live;
use crate::record::SIGKILL;

impl Driver {
    pub(super) fn perform(&mut self, order: Order, reply: Reply) {
        match order {
            Order::Start => {
                self.record.state.restarts = 0;
                self.record.state.restart_delay_ms = 0;
                self.replies.push(reply);
                self.launch();
            }
            Order::Stop { signal, grace_s } => self.stop(signal, grace_s, Some(reply)),
            Order::Restart { signal, grace_s } => self.restart(signal, grace_s, reply),
            Order::Kill { signal } => self.kill(signal, reply),
            Order::Pause => self.hold(Phase::Paused, Some(reply), None),
            Order::Unpause => self.hold(Phase::Running, Some(reply), None),
            Order::Rename { name } => self.rename(name, reply),
            Order::Update { change } => {
                (change.0)(&mut self.record);
                let saved = self.save(true);
                self.publish();
                self.tell("update", &[]);
                answer(reply, saved.map(|()| Outcome::Done));
            }
            Order::Remove { .. } => self.remove(reply),
            Order::Files { to } => self.lend(to, reply),
        }
    }

    /// A container that does not run is only started. One that is being restarted is not stopped twice.
    fn restart(&mut self, signal: Option<i32>, grace_s: Option<i64>, reply: Reply) {
        if self.after_end == AfterEnd::Remove {
            let (container, request) = (self.called(), Request::Restart);
            let refused = ContainerError::Refused { container, request, refused: Refused::IsRemoved };
            return answer(reply, Err(refused));
        }
        if self.live.is_none() {
            self.tell_restart = true;
            return self.perform(Order::Start, reply);
        }
        self.replies.push(reply);
        if std::mem::replace(&mut self.after_end, AfterEnd::Start) != AfterEnd::Start {
            self.stop(signal, grace_s, None);
        }
    }

    fn rename(&mut self, name: crate::container::ContainerName, reply: Reply) {
        let old = std::mem::replace(&mut self.record.name, name);
        match self.save(true) {
            Ok(()) => {
                self.publish();
                self.tell("rename", &[("oldName", format!("/{old}"))]);
                answer(reply, Ok(Outcome::Done));
            }
            Err(error) => {
                self.record.name = old;
                answer(reply, Err(error));
            }
        }
    }

    /// Sends a signal on behalf of a user. SIGKILL, and the container's own stop signal, are ends by hand: the restart
    /// policy does not start it again.
    fn kill(&mut self, signal: i32, reply: Reply) {
        let Some(live) = self.live.clone() else {
            return answer(reply, Ok(Outcome::AlreadySo));
        };
        if signal == SIGKILL || signal == self.record.life.stop_signal.0 {
            self.record.state.by_hand = true;
            self.commit(false);
        }
        self.tell("kill", &[("signal", signal.to_string())]);
        if signal == SIGKILL {
            self.expect_end();
        }
        if self.phase() == Phase::Paused {
            // The guest takes it, and answers, when it goes on.
            tokio::spawn(async move { drop(live.signal(signal).await) });
            return answer(reply, Ok(Outcome::Done));
        }
        tokio::spawn(async move {
            let sent = live.signal(signal).await;
            answer(reply, sent.map(|()| Outcome::Done));
        });
    }

    /// Holds the processors, or lets them go on; `then` is done after that.
    pub(super) fn hold(&mut self, to: Phase, reply: Option<Reply>, then: Option<Box<(Order, Reply)>>) {
        let Some(live) = self.live.clone() else {
            // It has ended: there is nothing to hold, and nothing that `then` could still do to it.
            let waiting = reply.into_iter().chain(then.map(|then| then.1));
            return answer_all(waiting, Ok(Outcome::AlreadySo));
        };
        self.busy = true;
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let request = if to == Phase::Paused { ControlRequest::Pause } else { ControlRequest::Resume };
            let result = ask(&live, request).await;
            let _ = reports.send(Message::Happened(Box::new(Happened::Held { to, result, reply, then })));
        });
    }

    pub(super) fn held(
        &mut self,
        to: Phase,
        result: Result<(), ContainerError>,
        reply: Option<Reply>,
        then: Option<Box<(Order, Reply)>>,
    ) {
        self.busy = false;
        // The machine may have ended meanwhile; its end was heard first then.
        let runs = matches!(self.phase(), Phase::Running | Phase::Paused);
        if result.is_ok() && runs {
            self.record.state.phase = to;
            // Nobody answers a probe while the processors are held.
            if to == Phase::Paused {
                self.end_probes()
            } else {
                self.begin_probes()
            }
            self.commit(false);
            self.tell(if to == Phase::Paused { "pause" } else { "unpause" }, &[]);
        }
        if let Some(reply) = reply {
            answer(reply, result.map(|()| Outcome::Done));
            return;
        }
        if let Some(then) = then {
            let (order, reply) = *then;
            match result {
                Ok(()) => self.take(order, reply),
                Err(error) => answer(reply, Err(error)),
            }
        }
    }

    pub(super) fn remove(&mut self, reply: Reply) {
        self.replies.push(reply);
        self.begin_removal();
    }

    pub(super) fn begin_removal(&mut self) {
        self.record.state.phase = Phase::Removing;
        self.publish();
        let folder = self.folder.clone();
        let reports = self.reports.clone();
        tokio::task::spawn_blocking(move || {
            let removed = folder.remove().map_err(ContainerError::from);
            let _ = reports.send(Message::Happened(Box::new(Happened::Removed(removed))));
        });
    }

    pub(super) fn removed(&mut self, result: Result<(), ContainerError>) {
        match &result {
            Ok(()) => {
                self.gone = true;
                self.host.forget(&self.record.id, &self.record.name);
                self.streams.renew();
                self.publish();
                self.tell("destroy", &[]);
                // Whoever waited in line for the container's removal hears that it is gone.
                for (order, reply) in std::mem::take(&mut self.waiting) {
                    let gone = Err(ContainerError::NotFound(self.record.id.to_string()));
                    let already = matches!(order, Order::Remove { .. });
                    answer(reply, if already { Ok(Outcome::AlreadySo) } else { gone });
                }
            }
            Err(error) => {
                self.record.state.phase = Phase::Dead;
                self.record.state.error = crate::error::describe(error);
                self.commit(false);
            }
        }
        self.answer_waiting(result);
    }
}

async fn ask(live: &Arc<Live>, request: ControlRequest) -> Result<(), ContainerError> {
    match live.sandbox.monitor().ask(request).await {
        Ok(ControlReply::Done) => Ok(()),
        Ok(ControlReply::Failed { message }) => Err(ContainerError::host("hold the machine", message)),
        Ok(_) => Err(ContainerError::host("hold the machine", "the monitor answered something else")),
        Err(error) => Err(ContainerError::host("hold the machine", error)),
    }
}
