//! Work on the files of a container that does not run: in a machine of its own without the container's process, since
//! nothing that a guest wrote is read on the host.
//!
//! ```text
//!  first comes ─▶ boot ─▶ lent to any number ─▶ last has left ─▶ a moment ─▶ shut down
//!                          everything else waits in line          └─ or at once, when somebody is in that line
//! ```
//!
//! Such a machine ends with the daemon. What was written is on its disk when the agent says so, not only at its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Driver, Happened, Message, Order, Outcome, Reply, Reports, answer, launch};
use crate::agent::Agent;
use crate::error::{ContainerError, describe};
use crate::live::Live;
use crate::sandbox::{Sandbox, SandboxError};
use crate::timeline::{HostMoment, Timeline};

/// How long a machine waits for the next request: a copy is two or three of them.
const LINGER: Duration = Duration::from_secs(1);

/// The machine that is lent.
pub(super) struct Lent {
    sandbox: Arc<Sandbox>,
    /// Which of the container's it is.
    number: u64,
    users: usize,
    /// Which idleness it is.
    ticket: u64,
}

impl Lent {
    fn again(&mut self, reports: &Reports) -> Loan {
        self.users += 1;
        self.ticket += 1;
        Loan { sandbox: Arc::clone(&self.sandbox), number: self.number, reports: reports.clone() }
    }
}

/// A machine in which a container's files can be worked on.
#[derive(Debug)]
pub enum FilesMachine {
    /// The container runs in it.
    Running(Arc<Live>),
    /// It is only there for this.
    Lent(Loan),
}

/// A part in a machine that is only there for the files. Dropping it gives it back.
#[derive(Debug)]
pub struct Loan {
    sandbox: Arc<Sandbox>,
    number: u64,
    reports: Reports,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let _ =
            self.reports.send(Message::Happened(Box::new(Happened::FilesReturned { number: self.number })));
    }
}

impl FilesMachine {
    fn sandbox(&self) -> &Sandbox {
        match self {
            FilesMachine::Running(live) => &live.sandbox,
            FilesMachine::Lent(loan) => &loan.sandbox,
        }
    }

    /// Its agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        self.sandbox().agent()
    }

    /// Waits for work, and hears when the machine ends under it.
    ///
    /// # Errors
    ///
    /// The work's, or [`SandboxError::Ended`].
    pub async fn or_ended<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, ContainerError>
    where
        ContainerError: From<E>,
    {
        tokio::select! {
            done = work => done.map_err(ContainerError::from),
            end = self.sandbox().monitor().ended() => Err(SandboxError::Ended(end).into()),
        }
    }
}

impl Driver {
    /// While a machine is lent, whoever wants the files shares it, and everything else waits for its end; but for a
    /// removal by force, which ends it. Gives back what is to be taken as always.
    pub(super) fn take_beside_lent(&mut self, order: Order, reply: Reply) -> Option<(Order, Reply)> {
        let Some(lent) = &mut self.lent else { return Some((order, reply)) };
        match order {
            // Not past those who wait already: they would wait for ever.
            Order::Files { to } if self.waiting.is_empty() => {
                hand_over(lent.again(&self.reports), to, reply);
            }
            order => {
                let by_force = matches!(order, Order::Remove { force: true });
                let idle = lent.users == 0;
                self.waiting.push_back((order, reply));
                if idle || by_force {
                    self.take_back(!by_force);
                }
            }
        }
        None
    }

    pub(super) fn lend(&mut self, to: oneshot::Sender<FilesMachine>, reply: Reply) {
        if let Some(live) = self.live.clone() {
            let _ = to.send(FilesMachine::Running(live));
            return answer(reply, Ok(Outcome::Done));
        }
        self.busy = true;
        let (host, folder) = (Arc::clone(&self.host), self.folder.clone());
        let (record, reports) = (self.record.clone(), self.reports.clone());
        tokio::spawn(async move {
            let mut timeline = Timeline::from(HostMoment::now());
            let booted = launch::boot_for_files(&host, &folder, &record, &mut timeline).await;
            let booted = Box::new(booted);
            let _ = reports.send(Message::Happened(Box::new(Happened::FilesReady { booted, to, reply })));
        });
    }

    pub(super) fn files_ready(
        &mut self,
        booted: Result<Sandbox, ContainerError>,
        to: oneshot::Sender<FilesMachine>,
        reply: Reply,
    ) {
        self.busy = false;
        let sandbox = match booted {
            Ok(sandbox) => Arc::new(sandbox),
            Err(error) => return answer(reply, Err(error)),
        };
        self.machines_lent += 1;
        let lent = self.lent.insert(Lent { sandbox, number: self.machines_lent, users: 0, ticket: 0 });
        hand_over(lent.again(&self.reports), to, reply);
        // Those who came meanwhile for the same can have it, up to the first who did not.
        while let Some((Order::Files { .. }, _)) = self.waiting.front() {
            let Some((Order::Files { to }, reply)) = self.waiting.pop_front() else { return };
            hand_over(lent.again(&self.reports), to, reply);
        }
        // One that came while the machine booted waits for nobody either.
        if self.waiting.iter().any(|(order, _)| matches!(order, Order::Remove { force: true })) {
            self.take_back(false);
        }
    }

    pub(super) fn files_returned(&mut self, number: u64) {
        let Some(lent) = self.lent.as_mut().filter(|lent| lent.number == number) else { return };
        lent.users = lent.users.saturating_sub(1);
        if lent.users > 0 {
            return;
        }
        if !self.waiting.is_empty() {
            return self.take_back(true);
        }
        lent.ticket += 1;
        let ticket = lent.ticket;
        self.report_later(LINGER, Happened::FilesIdle { ticket });
    }

    pub(super) fn files_idle(&mut self, ticket: u64) {
        if self.lent.as_ref().is_some_and(|lent| lent.users == 0 && lent.ticket == ticket) {
            self.take_back(true);
        }
    }

    /// Ends the machine; whoever still works in it hears of that.
    fn take_back(&mut self, keeps: bool) {
        let Some(lent) = self.lent.take() else { return };
        self.busy = true;
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let sandbox = lent.sandbox;
            let error = if keeps {
                sandbox.shut_down().await.err()
            } else {
                sandbox.stop().await;
                None
            };
            sandbox.clear();
            let _ = reports.send(Message::Happened(Box::new(Happened::FilesGone(error))));
        });
    }

    pub(super) fn files_gone(&mut self, error: Option<SandboxError>) {
        self.busy = false;
        if let Some(error) = error {
            tracing::warn!(
                container = %self.record.id.short(),
                "the machine for its files did not end well: {}",
                describe(&error),
            );
        }
    }
}

/// Whoever left meanwhile gives it back by not taking it.
fn hand_over(loan: Loan, to: oneshot::Sender<FilesMachine>, reply: Reply) {
    let _ = to.send(FilesMachine::Lent(loan));
    answer(reply, Ok(Outcome::Done));
}
