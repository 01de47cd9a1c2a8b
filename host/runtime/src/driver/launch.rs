//! A start: from a record to a machine with a running process.
//!
//! ```text
//!  writable layer ─▶ machine ─▶ record names it ─▶ machine is let go ─▶ streams ─▶ process
//! ```
//!
//! Until its record names it, a machine ends with the daemon; from then on it goes on without one. So whenever the
//! daemon is killed, either nothing is left or the next daemon knows about it.

use std::sync::Arc;
use std::time::Instant;

use capsid_protocol::ErrorCode;
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::ending::AfterEnd;
use super::{Driver, Happened, Message};
use crate::error::{ContainerError, describe};
use crate::folders::ContainerFolder;
use crate::host::Host;
use crate::lifecycle::{Next, Phase};
use crate::live::{Live, outputs};
use crate::network::NetworkMode;
use crate::pump::{LogSink, OutputPump, pump_input, pump_output};
use crate::record::{ContainerRecord, MachineRecord};
use crate::sandbox::{Sandbox, SandboxParts};
use crate::spec::ContainerSpec;
use crate::streams::RunStreams;
use crate::timeline::{HostMoment, Timeline};
use crate::writable::open_or_clone;

/// The exit code of a container whose start failed for another reason than its command (moby, `exitStatus`).
const START_FAILED: u8 = 128;

/// A start that came to nothing; nothing of it is left.
pub(crate) type LaunchError = ContainerError;

impl Driver {
    pub(super) fn launch(&mut self) {
        let state = &mut self.record.state;
        state.phase = Phase::Starting;
        state.run += 1;
        state.by_hand = false;
        state.oom_killed = false;
        state.error = String::new();
        state.health = None;
        self.started = Instant::now();
        self.commit(false);
        let launch = Launch {
            host: Arc::clone(&self.host),
            folder: self.folder.clone(),
            record: self.record.clone(),
            streams: self.streams.current(),
        };
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let launched = launch.launch().await.map(Arc::new);
            let _ = reports.send(Message::Happened(Box::new(Happened::Launched(launched))));
        });
    }

    pub(super) fn launched(&mut self, result: Result<Arc<Live>, LaunchError>) {
        match result {
            Ok(live) => {
                self.host.start_times.succeeded(self.started.elapsed());
                self.runs(live);
            }
            Err(error) => {
                self.host.start_times.failed();
                self.did_not_start(error);
            }
        }
    }

    fn runs(&mut self, live: Arc<Live>) {
        let state = &mut self.record.state;
        state.phase = Phase::Running;
        state.started_at = Some(Timestamp::now());
        state.finished_at = None;
        state.exit_code = 0;
        state.machine = Some(machine_record(&live.sandbox));
        self.watch(live);
        self.begin_probes();
        self.commit(false);
        self.tell("start", &[]);
        if std::mem::take(&mut self.tell_restart) {
            self.tell("restart", &[]);
        }
        self.answer_waiting(Ok(()));
    }

    /// Hears of the end of the process or its machine.
    pub(super) fn watch(&mut self, live: Arc<Live>) {
        self.live = Some(Arc::clone(&live));
        let (run, reports) = (self.record.state.run, self.reports.clone());
        tokio::spawn(async move {
            let end =
                live.sandbox.or_ended(live.sandbox.agent().wait(capsid_protocol::ProcessId::INIT)).await;
            let _ = reports.send(Message::Happened(Box::new(Happened::Ended { run, end })));
        });
    }

    fn did_not_start(&mut self, error: LaunchError) {
        self.tell_restart = false;
        let state = &mut self.record.state;
        state.machine = None;
        state.exit_code = match &error {
            ContainerError::Command { exit_code, .. } => *exit_code,
            _ => START_FAILED,
        };
        state.error = describe(&error);
        state.finished_at = state.started_at.is_some().then(Timestamp::now);
        let restarting = state.restarts > 0;
        state.phase = if state.started_at.is_some() { Phase::Exited } else { Phase::Created };
        let next = if restarting { self.follow(AfterEnd::Policy) } else { Next::Stay };
        if let Next::Restart { after } = next {
            self.record.state.phase = Phase::Restarting;
            self.record.state.restart_delay_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            self.await_restart(after);
        }
        self.commit(true);
        self.streams.renew();
        self.answer_waiting(Err(error));
        if self.record.life.auto_remove && next == Next::Stay {
            self.begin_removal();
        }
    }
}

pub(super) fn machine_record(sandbox: &Sandbox) -> MachineRecord {
    MachineRecord {
        pid: sandbox.monitor().pid(),
        engine: sandbox.engine(),
        size: sandbox.size(),
        network: sandbox.network().cloned(),
    }
}

/// Everything that a start needs.
struct Launch {
    host: Arc<Host>,
    folder: ContainerFolder,
    record: ContainerRecord,
    streams: Arc<RunStreams>,
}

impl Launch {
    async fn launch(mut self) -> Result<Live, LaunchError> {
        let mut timeline = Timeline::from(HostMoment::now());
        let sandbox = boot(&self.host, &self.folder, &self.record, &mut timeline).await?;
        let (sandbox, spec) = sandbox;
        let (run, process) = (self.record.state.run, spec.process.clone());
        match self.start(&sandbox, spec, &mut timeline).await {
            Ok((log, pumps)) => {
                Ok(Live { sandbox, run, process, timeline, log, pumps: tokio::sync::Mutex::new(pumps) })
            }
            Err(error) => {
                sandbox.stop().await;
                sandbox.clear();
                Err(error)
            }
        }
    }

    async fn start(
        &mut self,
        sandbox: &Sandbox,
        spec: ContainerSpec,
        timeline: &mut Timeline,
    ) -> Result<(Arc<LogSink>, JoinSet<()>), LaunchError> {
        self.record.state.machine = Some(machine_record(sandbox));
        self.folder.save(&self.record, false)?;
        sandbox.detach().await?;
        let log = Arc::new(LogSink::open(&self.folder, &self.record)?);
        let mut pumps = JoinSet::new();
        let terminal = spec.process.terminal.is_some();
        for stream in outputs(terminal) {
            let output = sandbox
                .or_ended(sandbox.agent().open_output(capsid_protocol::ProcessId::INIT, *stream, 0))
                .await?;
            let pump = OutputPump {
                stream: *stream,
                log: Some(Arc::clone(&log)),
                streams: Arc::clone(&self.streams),
                container: self.record.id.short().to_owned(),
            };
            pumps.spawn(pump_output(output, pump));
        }
        if spec.process.stdin {
            let input =
                sandbox.or_ended(sandbox.agent().open_input(capsid_protocol::ProcessId::INIT)).await?;
            if let Some(source) = self.streams.take_input() {
                // Not among the pumps: a run has ended when its process and its output have.
                tokio::spawn(pump_input(source, input, Arc::clone(&self.streams)));
            }
        }
        let started = sandbox.or_ended(sandbox.agent().start_process(spec.process)).await;
        let started = started.map_err(|error| command_error(Began::Container, error.into()))?;
        timeline.guest("process-started", started.at_us);
        Ok((log, pumps))
    }
}

/// Boots a container's machine, without starting its process.
pub(crate) async fn boot(
    host: &Host,
    folder: &ContainerFolder,
    record: &ContainerRecord,
    timeline: &mut Timeline,
) -> Result<(Sandbox, ContainerSpec), LaunchError> {
    boot_as(host, folder, record, timeline, |_| {}).await
}

/// Boots a machine for the files of a container that does not run: what would be mounted over them is not, and it has no
/// network.
pub(super) async fn boot_for_files(
    host: &Host,
    folder: &ContainerFolder,
    record: &ContainerRecord,
    timeline: &mut Timeline,
) -> Result<Sandbox, LaunchError> {
    let booted = boot_as(host, folder, record, timeline, |spec| {
        spec.root.tmpfs.clear();
        spec.network.mode = NetworkMode::None;
    });
    let booted = booted.await;
    booted.map(|(sandbox, _)| sandbox)
}

async fn boot_as(
    host: &Host,
    folder: &ContainerFolder,
    record: &ContainerRecord,
    timeline: &mut Timeline,
    change: impl FnOnce(&mut ContainerSpec),
) -> Result<(Sandbox, ContainerSpec), LaunchError> {
    let image = host.image(&record.image_id)?;
    let layers = image.open_layers().map_err(|error| image_error(record, error))?;
    let count = u32::try_from(layers.len()).unwrap_or(u32::MAX);
    let mut spec = ContainerSpec::merge(&image.config, &record.options, record.id.short(), count)?;
    change(&mut spec);
    timeline.reached("image-resolved");
    let (template, writable) = (host.artifacts.writable_template.clone(), folder.writable_path());
    let writable = tokio::task::spawn_blocking(move || open_or_clone(&template, &writable))
        .await
        .map_err(|error| ContainerError::host("make the writable layer", error))?
        .map_err(|error| ContainerError::host("make the writable layer", error))?;
    timeline.reached("writable-ready");
    let engine = host.engine(record.life.engine)?;
    let parts = SandboxParts {
        id: &record.id,
        artifacts: &host.artifacts,
        engine: &engine,
        spec: &spec,
        layers,
        writable,
        folders: &host.run_folders,
    };
    // Never closed; and what would come of it is only that there are no turns.
    let turn = host.boots.acquire().await.ok();
    let sandbox = Sandbox::boot(parts, timeline).await?;
    drop(turn);
    Ok((sandbox, spec))
}

fn image_error(
    record: &ContainerRecord,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ContainerError {
    ContainerError::Image { image: record.image.clone(), source: Box::new(error) }
}

/// What a program was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Began {
    /// The container's own process.
    Container,
    /// A further one.
    Exec,
}

/// A program that does not exist or cannot be executed has an exit code of its own, and Docker's words around its reason:
/// clients tell such failures from others by them.
pub(crate) fn command_error(began: Began, error: ContainerError) -> ContainerError {
    let exit_code = match error.agent_code() {
        Some(ErrorCode::CommandNotFound) => 127,
        Some(ErrorCode::CommandNotExecutable) => 126,
        _ => return error,
    };
    let around = match began {
        Began::Container => {
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
             failed"
        }
        Began::Exec => "OCI runtime exec failed: exec failed",
    };
    let reason = describe(&error);
    let message = format!("{around}: unable to start container process: {reason}: unknown");
    ContainerError::Command { exit_code, message }
}
