//! A container's machine, from its start to its end.
//!
//! ```text
//!  boot: monitor starts ─▶ guest boots ─▶ agent rings ─▶ control connects ─▶ root stands
//!           │                  │              │              │                  │
//!           └── each may fail, hang or lie: every wait watches the machine's end and a clock
//! ```

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capsid_protocol::{READY_PORT, Ready};
use capsid_vmm::Engine;
use capsid_vmm::control::{ControlReply, ControlRequest, EndCause, MachineState, VmmMilestone};
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::agent::{Agent, AgentError, read_ready};
use crate::artifacts::Artifacts;
use crate::container::ContainerId;
use crate::engine::ChosenEngine;
use crate::monitor::{MachineEnd, MachineParts, Monitor, MonitorError};
use crate::network::{Launcher, Network, NetworkError, NetworkPlan, NetworkRecord};
use crate::record::{MachineRecord, MachineSize};
use crate::run_folder::{RunFolder, RunFolderError, RunFolders};
use crate::spec::ContainerSpec;
use crate::timeline::{HostMoment, Timeline};

/// Names the time that a guest may take until its agent listens, in seconds.
pub const BOOT_TIMEOUT_VARIABLE: &str = "CAPSID_BOOT_TIMEOUT";
/// That time by default. On hardware a guest needs a tenth of a second, emulated on a busy machine some seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// More of a guest's milestones are not noted.
const MAX_MILESTONES: usize = 32;
/// How many of the console's last lines an error shows.
const CONSOLE_TAIL_LINES: usize = 15;

/// Why a machine is of no use, or no more.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Its folder of sockets could not be made.
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    /// A socket in it could not be made.
    #[error("failed to listen for the guest")]
    Listen(#[source] io::Error),
    /// The network that was asked for cannot be had.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The monitor did not start, or does not answer.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The machine ended while it was needed.
    #[error("the machine ended: {}", describe(.0))]
    Ended(MachineEnd),
    /// The guest's agent did not ring in time.
    #[error("the guest did not come up within {} s{}", .after.as_secs(), tail(.console))]
    BootTimeout {
        /// How long it had.
        after: Duration,
        /// The newest of its console.
        console: String,
    },
    /// The agent refused, or broke the protocol.
    #[error("{source}{}", tail(.console))]
    Agent {
        /// What the agent says, or what is wrong with it.
        source: AgentError,
        /// The newest of the guest's console; empty when the agent's own words say it all.
        console: String,
    },
}

impl SandboxError {
    fn agent(source: AgentError) -> SandboxError {
        SandboxError::Agent { source, console: String::new() }
    }
}

/// One line that says how a machine ended, and the tail of its console where that helps.
#[must_use]
pub fn describe(end: &MachineEnd) -> String {
    let report = match end {
        MachineEnd::Reported(report) => report,
        MachineEnd::Vanished { complaint } if complaint.is_empty() => {
            return "its monitor was killed".to_owned();
        }
        MachineEnd::Vanished { complaint } => return format!("its monitor failed: {complaint}"),
    };
    match &report.cause {
        EndCause::Stopped => "it was stopped".to_owned(),
        EndCause::LauncherGone => "its launcher let go of it".to_owned(),
        EndCause::GuestReset => format!("the guest reset it{}", tail(&report.console)),
        EndCause::GuestPanic => {
            format!("the guest's kernel panicked{}{}", panic_reason(&report.console), tail(&report.console))
        }
        EndCause::Failed { message } => format!("{message}{}", tail(&report.console)),
    }
}

/// The kernel's own word for why it panicked; the stack trace after it pushes that out of the console's tail.
fn panic_reason(console: &str) -> String {
    let said = console.lines().rev().find_map(|line| line.split_once("Kernel panic - not syncing: "));
    said.map_or_else(String::new, |(_, reason)| format!(": {}", printable(reason.trim_end())))
}

/// Text of a guest's, made safe for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// The last lines of a console, made safe for a terminal.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let shown = &lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..];
    let safe: Vec<String> = shown.iter().map(|line| printable(line)).collect();
    format!("; its console's last lines:\n  | {}", safe.join("\n  | "))
}

/// A machine with a prepared root. Dropping it ends the machine, unless it is detached.
#[derive(Debug)]
pub struct Sandbox {
    monitor: Monitor,
    agent: Agent,
    network: Option<Box<Network>>,
    engine: Engine,
    size: Option<MachineSize>,
    paused: bool,
    folder: RunFolder,
}

/// What a sandbox is made from.
pub struct SandboxParts<'a> {
    /// Whose it is.
    pub id: &'a ContainerId,
    /// Where kernel, agent and monitor are.
    pub artifacts: &'a Artifacts,
    /// What runs it.
    pub engine: &'a ChosenEngine,
    /// Machine and root.
    pub spec: &'a ContainerSpec,
    /// The image's layers, from the lowest.
    pub layers: Vec<File>,
    /// The writable layer.
    pub writable: File,
    /// Where its sockets go.
    pub folders: &'a RunFolders,
}

impl Sandbox {
    /// Starts a machine, waits for its agent, and has it prepare the root. The steps are noted in `timeline`.
    ///
    /// # Errors
    ///
    /// The machine is ended and nothing of it is left.
    pub async fn boot(parts: SandboxParts<'_>, timeline: &mut Timeline) -> Result<Sandbox, SandboxError> {
        let folder = parts.folders.create(parts.id)?;
        let booted = Sandbox::boot_in(&folder, &parts, timeline).await;
        match booted {
            Ok((monitor, agent, network)) => {
                if let Some(network) = &network {
                    network.watch(parts.id, monitor.ended());
                }
                let ContainerSpec { vcpus, memory_mib, .. } = *parts.spec;
                let size = Some(MachineSize { vcpus, memory_mib });
                let engine = parts.engine.engine;
                let network = network.map(Box::new);
                Ok(Sandbox { monitor, agent, network, engine, size, paused: false, folder })
            }
            Err(error) => {
                folder.clear();
                Err(error)
            }
        }
    }

    async fn boot_in(
        folder: &RunFolder,
        parts: &SandboxParts<'_>,
        timeline: &mut Timeline,
    ) -> Result<(Monitor, Agent, Option<Network>), SandboxError> {
        let plan = NetworkPlan::settle(&parts.spec.network, parts.id)?;
        let (card, launcher) = plan.wire()?.unzip();
        let doorbell = folder.join(&format!("vsock_{READY_PORT}"));
        let listener = UnixListener::bind(&doorbell).map_err(SandboxError::Listen)?;
        let monitor = Monitor::start(MachineParts {
            artifacts: parts.artifacts,
            engine: parts.engine,
            vcpus: parts.spec.vcpus,
            memory_mib: parts.spec.memory_mib,
            layers: &parts.layers,
            writable: &parts.writable,
            card,
            folder,
        })?;
        timeline.reached("monitor-started");
        let came_up = come_up(&monitor, listener, parts.spec, (&plan, launcher), timeline).await;
        // Nobody else is to ring: from here on the guest can connect to nothing on the host.
        let _ = std::fs::remove_file(&doorbell);
        match came_up {
            Ok((agent, network)) => Ok((monitor, agent, network)),
            Err(error) => {
                // The next machine may be given the same writable layer: this one is to be gone.
                monitor.end().await;
                Err(error)
            }
        }
    }

    /// Waits for an answer of the agent; hears at once when the machine ends instead, and says how.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Ended`], or the agent's.
    pub async fn or_ended<T>(
        &self,
        answer: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, SandboxError> {
        or_ended(&self.monitor, answer).await
    }

    /// Takes over a machine that another process booted and let go of. Its agent forgets that process. A machine that
    /// is held goes on, since nobody could connect to it otherwise: [`Sandbox::hold_again`] is called once everything is
    /// connected.
    ///
    /// # Errors
    ///
    /// It has ended, or it cannot be talked to: then it is ended.
    pub async fn adopt(
        folders: &RunFolders,
        id: &ContainerId,
        machine: &MachineRecord,
    ) -> Result<Sandbox, SandboxError> {
        let folder = folders.of(id);
        let network = machine.network.clone().map(Network::adopt);
        let monitor = match Monitor::adopt(&folder, machine.pid) {
            Ok(monitor) => monitor,
            Err(end) => {
                folder.clear();
                return Err(SandboxError::Ended(end));
            }
        };
        match Sandbox::connect_again(&monitor).await {
            Ok((agent, paused)) => {
                if let Some(network) = &network {
                    network.watch(id, monitor.ended());
                }
                let (engine, size) = (machine.engine, machine.size);
                let network = network.map(Box::new);
                Ok(Sandbox { monitor, agent, network, engine, size, paused, folder })
            }
            Err(error) => {
                monitor.end().await;
                if let Some(network) = &network {
                    network.end();
                }
                folder.clear();
                Err(error)
            }
        }
    }

    async fn connect_again(monitor: &Monitor) -> Result<(Agent, bool), SandboxError> {
        let state = monitor.ask(ControlRequest::State).await?;
        let paused = matches!(state, ControlReply::State { state: MachineState::Paused, .. });
        if paused {
            monitor.ask(ControlRequest::Resume).await?;
        }
        Ok((connect(monitor).await?, paused))
    }

    /// Holds a machine that was held when it was taken over.
    ///
    /// # Errors
    ///
    /// The monitor does not answer; the machine may go on.
    pub async fn hold_again(&self) -> Result<(), SandboxError> {
        if self.paused {
            self.monitor.ask(ControlRequest::Pause).await?;
        }
        Ok(())
    }

    /// From here on the machine outlives this process.
    ///
    /// # Errors
    ///
    /// The monitor does not answer; the machine ends with this process.
    pub async fn detach(&self) -> Result<(), SandboxError> {
        self.monitor.ask(ControlRequest::Detach).await?;
        Ok(())
    }

    /// Removes what a machine that has ended left.
    pub fn clear(&self) {
        if let Some(network) = &self.network {
            network.end();
        }
        self.folder.clear();
    }

    /// Its network, as it was set up.
    #[must_use]
    pub fn network(&self) -> Option<&NetworkRecord> {
        self.network.as_ref().map(|network| &network.record)
    }

    /// What runs the machine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// How large the machine is, if that is known.
    #[must_use]
    pub fn size(&self) -> Option<MachineSize> {
        self.size
    }

    /// Whether the machine was held when it was taken over.
    #[must_use]
    pub fn was_paused(&self) -> bool {
        self.paused
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The monitor.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Pulls the plug, and waits for the monitor's end. What the guest had not written to its disk is lost.
    pub async fn stop(&self) {
        self.monitor.end().await;
    }

    /// Has the guest write everything to its disk, then ends the machine.
    ///
    /// # Errors
    ///
    /// When the guest did not; the machine is ended all the same.
    pub async fn shut_down(&self) -> Result<(), SandboxError> {
        let written = self.or_ended(self.agent.shutdown()).await;
        self.stop().await;
        written
    }
}

async fn or_ended<T>(
    monitor: &Monitor,
    answer: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, SandboxError> {
    tokio::select! {
        answer = answer => match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(explain(monitor, error).await),
        },
        end = monitor.ended() => Err(SandboxError::Ended(end)),
    }
}

async fn note_boot(monitor: &Monitor, ready: &Ready, rang: HostMoment, timeline: &mut Timeline) {
    if let Ok(ControlReply::State { milestones, .. }) = monitor.ask(ControlRequest::State).await {
        for VmmMilestone { name, at_us } in milestones {
            timeline.monitor(&name, at_us);
        }
    }
    if let Some(last) = ready.milestones.last() {
        timeline.tie_guest(rang, last.at_us);
    }
    for milestone in ready.milestones.iter().take(MAX_MILESTONES) {
        timeline.guest(&milestone.name, milestone.at_us);
    }
}

async fn prepare_root(
    monitor: &Monitor,
    agent: &Agent,
    spec: &ContainerSpec,
    plan: &NetworkPlan,
    timeline: &mut Timeline,
) -> Result<(), SandboxError> {
    let mut root = spec.root.clone();
    root.network = plan.setup();
    root.resolv_conf = Some(plan.resolv_conf.clone());
    root.realtime_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok());
    let prepared = or_ended(monitor, agent.prepare_root(root)).await?;
    timeline.guest("root-prepared", prepared.at_us);
    Ok(())
}

/// From a monitor that has started to a root that stands. passt starts beside the guest's boot, which takes longer.
async fn come_up(
    monitor: &Monitor,
    listener: UnixListener,
    spec: &ContainerSpec,
    (plan, launcher): (&NetworkPlan, Option<Launcher>),
    timeline: &mut Timeline,
) -> Result<(Agent, Option<Network>), SandboxError> {
    let network = launcher.map(Launcher::start).transpose()?;
    let ready = ring(&listener, monitor).await?;
    let rang = HostMoment::now();
    timeline.reached_at("agent-ready", rang);
    drop(listener);
    let agent = connect(monitor).await?;
    note_boot(monitor, &ready, rang, timeline).await;
    if let Some(network) = &network {
        network.confined().await?;
    }
    prepare_root(monitor, &agent, spec, plan, timeline).await?;
    Ok((agent, network))
}

/// Waits for the agent's one ring.
async fn ring(listener: &UnixListener, monitor: &Monitor) -> Result<Ready, SandboxError> {
    let after = boot_timeout();
    let rung = async {
        let (mut connection, _) = listener.accept().await.map_err(SandboxError::Listen)?;
        read_ready(&mut connection).await.map_err(SandboxError::agent)
    };
    tokio::select! {
        rung = timeout(after, rung) => match rung {
            Ok(Ok(ready)) => Ok(ready),
            Ok(Err(SandboxError::Agent { source, .. })) => Err(explain(monitor, source).await),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SandboxError::BootTimeout { after, console: monitor.console().await }),
        },
        end = monitor.ended() => Err(SandboxError::Ended(end)),
    }
}

async fn connect(monitor: &Monitor) -> Result<Agent, SandboxError> {
    tokio::select! {
        agent = Agent::connect(monitor.vsock_path()) => match agent {
            Ok(agent) => Ok(agent),
            Err(error) => Err(explain(monitor, error).await),
        },
        end = monitor.ended() => Err(SandboxError::Ended(end)),
    }
}

/// An agent that gives a reason of its own has said it all. Any other failure may be the machine's: its end is
/// given a moment to be heard, and its console is shown.
async fn explain(monitor: &Monitor, error: AgentError) -> SandboxError {
    if error.code().is_some() {
        return SandboxError::agent(error);
    }
    if matches!(error, AgentError::Ended | AgentError::Connection(_))
        && let Ok(end) = timeout(Duration::from_secs(1), monitor.ended()).await
    {
        return SandboxError::Ended(end);
    }
    SandboxError::Agent { source: error, console: monitor.console().await }
}

fn boot_timeout() -> Duration {
    let asked = std::env::var(BOOT_TIMEOUT_VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
    asked.map_or(BOOT_TIMEOUT, Duration::from_secs)
}

/// An engine's name, as `--engine` takes it.
#[must_use]
pub fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Kvm => "kvm",
        Engine::Emulated => "emulated",
    }
}

#[cfg(test)]
mod tests {
    use capsid_vmm::control::EndReport;

    use super::*;

    #[test]
    fn a_panic_is_told_by_its_reason_before_the_tail_that_has_lost_it() {
        let trace = "[ 1.5]  ? 0xffffffff8104e4ab\n".repeat(40);
        let console = format!("[ 1.4] Kernel panic - not syncing: no \u{1b}[31mmemory\r\n{trace}");
        let report = EndReport { cause: EndCause::GuestPanic, console, milestones: Vec::new() };
        let said = describe(&MachineEnd::Reported(report));
        let start = "the guest's kernel panicked: no [31mmemory; its console's last lines:\n  | [ 1.5]";
        assert!(said.starts_with(start) && said.lines().count() == CONSOLE_TAIL_LINES + 1, "{said}");
    }
}
