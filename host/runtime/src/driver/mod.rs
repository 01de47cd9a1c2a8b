//! The one task that owns a container: it takes requests and what happens to the container one at a time, asks
//! [`crate::lifecycle`] what they mean, and publishes a view of the container after each change.
//!
//! The task never waits for a guest or a disk that is slow: whatever takes time is begun in a task of its own, which
//! reports back as [`Happened`]. Requests that come in a passing phase wait in line until it has passed, so twenty at
//! once are twenty in a row.

mod ending;
mod health;
mod launch;
mod lend;
mod orders;
mod recovery;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use capsid_protocol::ExitReport;
use capsid_vmm::Engine;
use tokio::sync::{mpsc, oneshot, watch};

use crate::container::ContainerName;
use crate::error::{Called, ContainerError};
use crate::events::EventKind;
use crate::folders::ContainerFolder;
use crate::host::Host;
use crate::lifecycle::{Decision, Phase, Request, decide};
use crate::live::Live;
use crate::record::{ContainerRecord, HealthResult, HealthStatus};
use crate::sandbox::{Sandbox, SandboxError};
use crate::streams::Streams;
use crate::timeline::Timeline;

use ending::{AfterEnd, Stopping};
pub(crate) use launch::{Began, LaunchError, command_error};
pub use lend::FilesMachine;
use lend::Lent;

/// What is known of a container at one moment.
#[derive(Debug)]
pub struct View {
    /// Its record.
    pub record: Arc<ContainerRecord>,
    /// Its machine, while its process runs.
    pub live: Option<Arc<Live>>,
    /// What is to be said of its newest end that this daemon saw.
    pub last_run: Option<Arc<RunNotes>>,
    /// Counts its ends since this daemon started.
    pub ends: u64,
    /// Whether it is gone.
    pub removed: bool,
    /// Room for what an interface makes of this view, so that it makes it once.
    pub made: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// What a run is better understood with, when it is over.
#[derive(Debug, Clone)]
pub struct RunNotes {
    /// What ran its machine.
    pub engine: Engine,
    /// Its steps, from its start to its end.
    pub timeline: Timeline,
    /// What a person should be told.
    pub notices: Vec<String>,
}

impl View {
    /// Its phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.record.state.phase
    }

    /// The phase that people are shown: one that is being started is as it was before.
    #[must_use]
    pub fn shown_phase(&self) -> Phase {
        let state = &self.record.state;
        match state.phase {
            Phase::Starting if state.restarts > 0 => Phase::Restarting,
            Phase::Starting if state.started_at.is_some() => Phase::Exited,
            phase => phase,
        }
    }

    /// How messages call it.
    #[must_use]
    pub fn called(&self) -> Called {
        Called { id: self.record.id.to_string(), name: self.record.name.to_string() }
    }
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was so already.
    AlreadySo,
}

pub(crate) type Reply = oneshot::Sender<Result<Outcome, ContainerError>>;

/// A request with its particulars.
#[derive(Debug)]
pub(crate) enum Order {
    Start,
    Stop { signal: Option<i32>, grace_s: Option<i64> },
    Restart { signal: Option<i32>, grace_s: Option<i64> },
    Kill { signal: i32 },
    Pause,
    Unpause,
    Rename { name: ContainerName },
    Update { change: Box<Change> },
    Remove { force: bool },
    Files { to: oneshot::Sender<FilesMachine> },
}

/// What an update changes in a record: set by the interface that the update came through.
pub(crate) struct Change(pub(crate) Box<dyn FnOnce(&mut ContainerRecord) + Send + Sync>);

impl std::fmt::Debug for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Change")
    }
}

impl Order {
    fn request(&self) -> Request {
        match self {
            Order::Start => Request::Start,
            Order::Stop { .. } => Request::Stop,
            Order::Restart { .. } => Request::Restart,
            Order::Kill { signal } => Request::Kill { for_good: *signal == crate::record::SIGKILL },
            Order::Pause => Request::Pause,
            Order::Unpause => Request::Unpause,
            Order::Rename { .. } | Order::Update { .. } => Request::Change,
            Order::Remove { force } => Request::Remove { force: *force },
            Order::Files { .. } => Request::Files,
        }
    }
}

/// What happened to a container.
#[derive(Debug)]
pub(crate) enum Happened {
    /// A launch has come to its end.
    Launched(Result<Arc<Live>, LaunchError>),
    /// The process or the machine of that run has ended.
    Ended { run: u32, end: Result<ExitReport, SandboxError> },
    /// Nothing of that run is left.
    WoundDown { run: u32, error: Option<SandboxError> },
    /// The grace of a stop of that run is over.
    GraceOver { run: u32 },
    /// The machine of that run did not end when its process was killed.
    KillFailed { run: u32 },
    /// The back-off is over, if this is the restart that is waited for.
    RestartDue { ticket: u64 },
    /// A pause or its end was done.
    Held {
        to: Phase,
        result: Result<(), ContainerError>,
        reply: Option<Reply>,
        then: Option<Box<(Order, Reply)>>,
    },
    /// A probe of that run has a result.
    Probed { run: u32, status: HealthStatus, streak: u32, result: Box<HealthResult> },
    /// A machine for the container's files has booted, or not, for whoever asked first.
    FilesReady {
        booted: Box<Result<Sandbox, ContainerError>>,
        to: oneshot::Sender<FilesMachine>,
        reply: Reply,
    },
    /// Somebody is done with the container's files.
    FilesReturned { number: u64 },
    /// Nobody has come for that machine for a while, if nobody has since.
    FilesIdle { ticket: u64 },
    /// That machine is gone.
    FilesGone(Option<SandboxError>),
    /// The folder is gone, or not.
    Removed(Result<(), ContainerError>),
}

/// What a driver is told.
#[derive(Debug)]
pub(crate) enum Message {
    Order(Order, Reply),
    /// Boxed, for a channel keeps room for a few dozen messages, and there is one for each container.
    Happened(Box<Happened>),
}

/// Where a driver's own tasks report.
pub(crate) type Reports = mpsc::UnboundedSender<Message>;

pub(crate) struct Driver {
    host: Arc<Host>,
    folder: ContainerFolder,
    record: ContainerRecord,
    streams: Arc<Streams>,
    inbox: mpsc::UnboundedReceiver<Message>,
    reports: Reports,
    view: watch::Sender<Arc<View>>,
    live: Option<Arc<Live>>,
    /// The moment of the newest start, for the restart policy.
    started: Instant,
    ends: u64,
    last_run: Option<Arc<RunNotes>>,
    gone: bool,
    stopping: Option<Stopping>,
    after_end: AfterEnd,
    /// Orders that came in a passing phase.
    waiting: VecDeque<(Order, Reply)>,
    /// Who waits for a start or a removal that is under way.
    replies: Vec<Reply>,
    /// Set while processors are being held or let go.
    busy: bool,
    restart_ticket: u64,
    /// Whether the start that is under way is a restart by hand.
    tell_restart: bool,
    health: Option<tokio::task::JoinHandle<()>>,
    /// The machine in which the files of a container are worked on that does not run.
    lent: Option<Lent>,
    machines_lent: u64,
}

/// What a driver is made of.
pub(crate) struct DriverParts {
    pub(crate) host: Arc<Host>,
    pub(crate) folder: ContainerFolder,
    pub(crate) record: ContainerRecord,
    pub(crate) streams: Arc<Streams>,
}

/// What is known of a container without a machine.
pub(crate) fn first_view(record: &ContainerRecord) -> Arc<View> {
    Arc::new(View {
        record: Arc::new(record.clone()),
        live: None,
        last_run: None,
        ends: 0,
        removed: false,
        made: OnceLock::new(),
    })
}

impl Driver {
    /// A driver, the sender of its messages, and the view that it publishes.
    pub(crate) fn new(
        parts: DriverParts,
    ) -> (Driver, mpsc::UnboundedSender<Message>, watch::Receiver<Arc<View>>) {
        let (reports, inbox) = mpsc::unbounded_channel();
        let (view, watcher) = watch::channel(first_view(&parts.record));
        let driver = Driver {
            host: parts.host,
            folder: parts.folder,
            record: parts.record,
            streams: parts.streams,
            inbox,
            reports: reports.clone(),
            view,
            live: None,
            started: Instant::now(),
            ends: 0,
            last_run: None,
            gone: false,
            stopping: None,
            after_end: AfterEnd::Policy,
            waiting: VecDeque::new(),
            replies: Vec::new(),
            busy: false,
            restart_ticket: 0,
            tell_restart: false,
            health: None,
            lent: None,
            machines_lent: 0,
        };
        (driver, reports, watcher)
    }

    /// Serves until the container is gone.
    pub(crate) async fn run(mut self) {
        while let Some(message) = self.inbox.recv().await {
            match message {
                Message::Order(order, reply) => self.take(order, reply),
                Message::Happened(happened) => self.heed(*happened),
            }
            self.take_waiting();
            if self.gone {
                break;
            }
        }
    }

    fn take_waiting(&mut self) {
        while !self.is_passing() && !self.gone {
            let Some((order, reply)) = self.waiting.pop_front() else { return };
            self.take(order, reply);
        }
    }

    fn is_passing(&self) -> bool {
        self.busy || self.phase().is_passing() || self.lent.is_some()
    }

    fn phase(&self) -> Phase {
        self.record.state.phase
    }

    fn called(&self) -> Called {
        Called { id: self.record.id.to_string(), name: self.record.name.to_string() }
    }

    fn take(&mut self, order: Order, reply: Reply) {
        let Some((order, reply)) = self.take_beside_lent(order, reply) else { return };
        let request = order.request();
        let decision = if self.busy { Decision::Later } else { decide(self.phase(), request) };
        match decision {
            Decision::Do => self.perform(order, reply),
            Decision::Later => self.waiting.push_back((order, reply)),
            Decision::AlreadySo => answer(reply, Ok(Outcome::AlreadySo)),
            Decision::Refuse(refused) => {
                let container = self.called();
                answer(reply, Err(ContainerError::Refused { container, request, refused }));
            }
            Decision::ResumeThenDo => self.hold(Phase::Running, None, Some(Box::new((order, reply)))),
            Decision::EndThenDo => self.end_then(order, reply),
            Decision::CancelRestart => self.cancel_restart(order, reply),
        }
    }

    fn heed(&mut self, happened: Happened) {
        let run = self.record.state.run;
        match happened {
            Happened::Launched(result) => self.launched(result),
            Happened::Ended { run: of, end } if of == run => self.ended(end),
            Happened::WoundDown { run: of, error } if of == run => self.wound_down(error),
            Happened::GraceOver { run: of } if of == run => self.grace_over(),
            Happened::KillFailed { run: of } if of == run => self.pull_the_plug(),
            Happened::RestartDue { ticket } if ticket == self.restart_ticket => self.restart_due(),
            Happened::Held { to, result, reply, then } => self.held(to, result, reply, then),
            Happened::Probed { run: of, status, streak, result } if of == run => {
                self.probed(status, streak, *result);
            }
            Happened::FilesReady { booted, to, reply } => self.files_ready(*booted, to, reply),
            Happened::FilesReturned { number } => self.files_returned(number),
            Happened::FilesIdle { ticket } => self.files_idle(ticket),
            Happened::FilesGone(error) => self.files_gone(error),
            Happened::Removed(result) => self.removed(result),
            // Of a run that is over.
            Happened::Ended { .. }
            | Happened::WoundDown { .. }
            | Happened::GraceOver { .. }
            | Happened::KillFailed { .. }
            | Happened::RestartDue { .. }
            | Happened::Probed { .. } => {}
        }
    }

    /// Writes the record down and shows it. What cannot be written is told: the container goes on all the same.
    fn commit(&mut self, synced: bool) {
        if let Err(error) = self.save(synced) {
            tracing::error!(container = %self.record.id.short(), "{}", crate::error::describe(&error));
        }
        self.publish();
    }

    fn save(&self, synced: bool) -> Result<(), ContainerError> {
        // Of a container that is removed at its end nothing is to survive the host's.
        let synced = synced && !self.record.life.auto_remove;
        Ok(self.folder.save(&self.record, synced)?)
    }

    fn publish(&mut self) {
        self.view.send_replace(Arc::new(View {
            record: Arc::new(self.record.clone()),
            live: self.live.clone(),
            last_run: self.last_run.clone(),
            ends: self.ends,
            removed: self.gone,
            made: OnceLock::new(),
        }));
    }

    fn tell(&self, action: impl Into<String>, more: &[(&str, String)]) {
        let action = action.into();
        tracing::info!(container = %self.record.id.short(), name = %self.record.name, "{action}");
        let mut attributes = crate::containers::event_attributes(&self.record);
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.host.events.tell(EventKind::Container, action, self.record.id.as_str(), attributes);
    }

    fn report_later(&self, after: std::time::Duration, happened: Happened) {
        let reports = self.reports.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = reports.send(Message::Happened(Box::new(happened)));
        });
    }
}

/// Gives everybody the same answer.
pub(crate) fn answer_all(replies: impl IntoIterator<Item = Reply>, result: Result<Outcome, ContainerError>) {
    let result = result.map_err(Arc::new);
    for reply in replies {
        answer(reply, result.clone().map_err(ContainerError::Shared));
    }
}

/// A requester that left does not need its answer.
pub(crate) fn answer(reply: Reply, result: Result<Outcome, ContainerError>) {
    let _ = reply.send(result);
}
