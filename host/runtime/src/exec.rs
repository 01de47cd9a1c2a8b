//! Further processes in a running container.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use capsid_protocol::{ExitReport, ProcessId, ProcessSpec, TerminalSize};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::container::ContainerId;
use crate::containers::{Container, Containers, event_attributes};
use crate::driver::{Began, command_error};
use crate::error::ContainerError;
use crate::events::{EventKind, Events};
use crate::folders::{ContainerFolder, write_whole};
use crate::lifecycle::Request;
use crate::live::{Live, outputs};
use crate::pump::{OutputPump, pump_input, pump_output};
use crate::record::ContainerRecord;
use crate::streams::RunStreams;

/// Execs of one container that are remembered, beyond those that run.
const MAX_REMEMBERED: usize = 512;
/// The exit code of an exec that did not start, for another reason than its command (moby, `exitExecInvalid`).
const NOT_STARTED: u8 = 126;
/// The exit code of an exec whose machine ended under it.
const MACHINE_ENDED: u8 = 137;

/// A further process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// Its identifier, of the same form as a container's.
    pub id: ContainerId,
    /// Which start of the container it is in.
    pub run: u32,
    /// What is started.
    pub process: ProcessSpec,
    /// What was asked for in the words of the interface that it came through.
    pub documents: serde_json::Value,
    /// How far it is.
    pub state: ExecState,
}

/// How far a further process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecState {
    /// Not started.
    Created,
    /// It runs.
    Running {
        /// Its process, as the guest sees it.
        pid: u32,
    },
    /// It has ended.
    Exited {
        /// As shells give it.
        code: u8,
        /// Its process, as the guest saw it.
        pid: u32,
    },
}

/// The execs of one container.
#[derive(Debug)]
pub(crate) struct Execs {
    path: PathBuf,
    execs: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By identifier, each with the streams of its process.
    by_id: HashMap<String, (ExecRecord, Arc<RunStreams>)>,
    /// In the order of their making.
    order: Vec<String>,
    next_process: u32,
}

impl Execs {
    /// Those that an earlier daemon wrote down.
    pub(crate) fn load(folder: &ContainerFolder) -> Execs {
        let path = folder.path().join("execs.json");
        let read = std::fs::read(&path).ok();
        let records: Vec<ExecRecord> =
            read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut known = Known::default();
        for record in records {
            known.next_process = known.next_process.max(record.process.process.0);
            known.add(record);
        }
        Execs { path, execs: Mutex::new(known) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Written, and not synced: an exec does not outlive its machine, and that does not outlive the host.
    fn save(&self, known: &Known) {
        let records: Vec<_> =
            known.order.iter().filter_map(|id| known.by_id.get(id)).map(|(r, _)| r).collect();
        let saved = serde_json::to_vec(&records).map(|text| write_whole(&self.path, &text, false));
        if !matches!(saved, Ok(Ok(()))) {
            tracing::warn!(path = %self.path.display(), "failed to write the execs of a container");
        }
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.lock().order.clone()
    }

    /// Those that run, for the container's description.
    pub(crate) fn running(&self) -> Vec<String> {
        let known = self.lock();
        let runs = |id: &&String| {
            known.by_id.get(*id).is_some_and(|(record, _)| matches!(record.state, ExecState::Running { .. }))
        };
        known.order.iter().filter(runs).cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<(ExecRecord, Arc<RunStreams>)> {
        self.lock().by_id.get(id).cloned()
    }

    fn set(&self, id: &str, state: ExecState) {
        let mut known = self.lock();
        if let Some((record, _)) = known.by_id.get_mut(id) {
            record.state = state;
        }
        self.save(&known);
    }

    /// Takes an exec to start it: of several that want to, one gets it.
    fn claim(&self, id: &str) -> Result<(ExecRecord, Arc<RunStreams>), ContainerError> {
        let mut known = self.lock();
        let found = known.by_id.get_mut(id).ok_or_else(|| ContainerError::NoExec(id.to_owned()))?;
        if found.0.state != ExecState::Created {
            return Err(ContainerError::ExecRan(id.to_owned()));
        }
        found.0.state = ExecState::Running { pid: 0 };
        let claimed = found.clone();
        self.save(&known);
        Ok(claimed)
    }

    fn insert(&self, mut record: ExecRecord) -> (ExecRecord, Vec<String>) {
        let mut known = self.lock();
        known.next_process = known.next_process.wrapping_add(1).max(1);
        record.process.process = ProcessId(known.next_process);
        known.add(record.clone());
        let forgotten = known.forget_old();
        self.save(&known);
        (record, forgotten)
    }

    /// The machine has ended: so has what ran in it.
    pub(crate) fn machine_ended(&self) {
        let mut known = self.lock();
        let mut changed = false;
        for (record, streams) in known.by_id.values_mut() {
            if let ExecState::Running { pid } = record.state {
                record.state = ExecState::Exited { code: MACHINE_ENDED, pid };
                streams.close();
                changed = true;
            }
        }
        if changed {
            self.save(&known);
        }
    }
}

impl Known {
    fn add(&mut self, record: ExecRecord) {
        let id = record.id.to_string();
        self.order.push(id.clone());
        self.by_id.insert(id, (record, Arc::default()));
    }

    /// Forgets the oldest of those that have ended.
    fn forget_old(&mut self) -> Vec<String> {
        let mut forgotten = Vec::new();
        while self.order.len() - forgotten.len() > MAX_REMEMBERED {
            let ended = self.order.iter().find(|id| {
                !forgotten.contains(*id)
                    && self
                        .by_id
                        .get(*id)
                        .is_some_and(|(record, _)| matches!(record.state, ExecState::Exited { .. }))
            });
            let Some(id) = ended.cloned() else { break };
            self.by_id.remove(&id);
            forgotten.push(id);
        }
        self.order.retain(|id| !forgotten.contains(id));
        forgotten
    }
}

impl Containers {
    /// Makes an exec in a running container.
    ///
    /// # Errors
    ///
    /// The container does not run.
    pub async fn create_exec(
        &self,
        container: &Container,
        process: ProcessSpec,
        documents: serde_json::Value,
    ) -> Result<ExecRecord, ContainerError> {
        container.allow(Request::Exec).await?;
        let id =
            ContainerId::generate().map_err(|error| ContainerError::host("get random numbers", error))?;
        let view = container.view();
        let record =
            ExecRecord { id, run: view.record.state.run, process, documents, state: ExecState::Created };
        let (record, forgotten) = container.execs.insert(record);
        {
            let mut index = self.index_mut();
            index.execs.insert(record.id.to_string(), container.id().clone());
            for id in &forgotten {
                index.execs.remove(id);
            }
        }
        tell(
            &self.host.events,
            &view.record,
            &record,
            &format!("exec_create: {}", record.process.args.join(" ")),
            &[],
        );
        Ok(record)
    }

    /// Starts an exec; its streams were handed out by [`Containers::exec`] before, so that no byte is missed.
    ///
    /// # Errors
    ///
    /// It ran already, the container does not run, or the program cannot be started.
    pub async fn start_exec(
        &self,
        container: &Container,
        id: &str,
        size: Option<TerminalSize>,
    ) -> Result<(), ContainerError> {
        let live = container.running(Request::Exec).await?;
        let (mut record, streams) = container.execs.claim(id)?;
        if let (Some(terminal), Some(size)) = (&mut record.process.terminal, size) {
            *terminal = size;
        }
        let started = self.run_exec(container, &live, &record, &streams).await;
        if let Err(error) = &started {
            let code = match error {
                ContainerError::Command { exit_code, .. } => *exit_code,
                _ => NOT_STARTED,
            };
            container.execs.set(id, ExecState::Exited { code, pid: 0 });
            streams.close();
        }
        started
    }

    async fn run_exec(
        &self,
        container: &Container,
        live: &Arc<Live>,
        record: &ExecRecord,
        streams: &Arc<RunStreams>,
    ) -> Result<(), ContainerError> {
        let pumps = connect(live, record, streams, container).await?;
        let agent = live.sandbox.agent();
        let started = live.sandbox.or_ended(agent.start_process(record.process.clone())).await;
        let pid = started.map_err(|error| command_error(Began::Exec, error.into()))?.pid;
        container.execs.set(record.id.as_str(), ExecState::Running { pid });
        let view = container.view();
        let action = format!("exec_start: {}", record.process.args.join(" "));
        tell(&self.host.events, &view.record, record, &action, &[]);
        self.watch_exec(container.clone(), Arc::clone(live), record.clone(), Arc::clone(streams), pumps);
        Ok(())
    }

    /// Hears of an exec's end in a task of its own.
    fn watch_exec(
        &self,
        container: Container,
        live: Arc<Live>,
        record: ExecRecord,
        streams: Arc<RunStreams>,
        mut pumps: JoinSet<()>,
    ) {
        let events = self.host.events.clone();
        tokio::spawn(async move {
            let agent = live.sandbox.agent();
            let ended = live.sandbox.or_ended(agent.wait(record.process.process)).await;
            streams.process_ended();
            let all = async { while pumps.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(crate::live::OUTPUT_TIMEOUT, all).await;
            let code = ended.as_ref().map_or(MACHINE_ENDED, |report: &ExitReport| report.status.exit_code());
            let pid = match container.execs.get(record.id.as_str()) {
                Some((ExecRecord { state: ExecState::Running { pid }, .. }, _)) => pid,
                _ => 0,
            };
            container.execs.set(record.id.as_str(), ExecState::Exited { code, pid });
            tell(&events, &container.view().record, &record, "exec_die", &[("exitCode", code.to_string())]);
            streams.close();
        });
    }

    /// Takes the execs up that ran when the daemon was killed: their output has nobody to hear it any more.
    pub(crate) async fn adopt_execs(&self, container: &Container, live: &Arc<Live>) {
        for id in container.execs.running() {
            let Some((record, streams)) = container.execs.get(&id) else { continue };
            match connect(live, &record, &streams, container).await {
                Ok(pumps) => self.watch_exec(container.clone(), Arc::clone(live), record, streams, pumps),
                Err(error) => {
                    tracing::warn!(container = %container.id().short(), exec = %id, %error, "an exec was lost");
                    container.execs.set(&id, ExecState::Exited { code: MACHINE_ENDED, pid: 0 });
                }
            }
        }
    }

    /// An exec, and the streams of its process.
    ///
    /// # Errors
    ///
    /// [`ContainerError::NoExec`].
    pub fn exec(&self, id: &str) -> Result<(Container, ExecRecord, Arc<RunStreams>), ContainerError> {
        let container = self.find_exec(id)?;
        let (record, streams) =
            container.execs.get(id).ok_or_else(|| ContainerError::NoExec(id.to_owned()))?;
        Ok((container, record, streams))
    }

    /// The execs of a container that run.
    #[must_use]
    pub fn running_execs(&self, container: &ContainerId) -> Vec<String> {
        self.index().by_id.get(container).map(|container| container.execs.running()).unwrap_or_default()
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    ///
    /// It does not run, or has no terminal.
    pub async fn resize_exec(
        &self,
        container: &Container,
        record: &ExecRecord,
        size: TerminalSize,
    ) -> Result<(), ContainerError> {
        let live = container.running(Request::Exec).await?;
        let resized = live.sandbox.agent().resize(record.process.process, size);
        Ok(live.sandbox.or_ended(resized).await?)
    }
}

async fn connect(
    live: &Live,
    record: &ExecRecord,
    streams: &Arc<RunStreams>,
    container: &Container,
) -> Result<JoinSet<()>, ContainerError> {
    let mut pumps = JoinSet::new();
    let (sandbox, process) = (&live.sandbox, record.process.process);
    for stream in outputs(record.process.terminal.is_some()) {
        let output = sandbox.or_ended(sandbox.agent().resume_output(process, *stream)).await?;
        let pump = OutputPump {
            stream: *stream,
            log: None,
            streams: Arc::clone(streams),
            container: container.id().short().to_owned(),
        };
        pumps.spawn(pump_output(output, pump));
    }
    if record.process.stdin {
        let input = sandbox.or_ended(sandbox.agent().open_input(process)).await?;
        if let Some(source) = streams.take_input() {
            // Not among the pumps: an exec has ended when its process and its output have.
            tokio::spawn(pump_input(source, input, Arc::clone(streams)));
        }
    }
    Ok(pumps)
}

fn tell(
    events: &Events,
    container: &ContainerRecord,
    exec: &ExecRecord,
    action: &str,
    more: &[(&str, String)],
) {
    let mut attributes = event_attributes(container);
    attributes.insert("execID".to_owned(), exec.id.to_string());
    attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    events.tell(EventKind::Container, action, container.id.as_str(), attributes);
}
