//! What is written down of a container: everything that a new daemon needs to go on with it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::{ContainerId, ContainerName};
use crate::engine::EngineChoice;
use crate::lifecycle::{Phase, RestartPolicy};
use crate::network::NetworkRecord;
use crate::spec::RunOptions;

/// Docker's grace between the stop signal and the kill (moby, `defaultStopTimeout`).
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The signal that asks a container to end.
pub const SIGTERM: i32 = 15;
/// The signal that ends it.
pub const SIGKILL: i32 = 9;

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// When it was made.
    pub created: Timestamp,
    /// The image as the user named it.
    pub image: String,
    /// The image's identifier: the digest of its configuration.
    pub image_id: String,
    /// Program and arguments, as they were merged from the image's and the user's.
    pub command: Vec<String>,
    /// What the user asks of machine, root and process.
    pub options: RunOptions,
    /// What the user asks of its life.
    pub life: LifeOptions,
    /// What was asked for in the words of the interface that it came through; the runtime does not read it.
    pub documents: Arc<serde_json::Value>,
    /// How far its life is.
    pub state: StateRecord,
}

/// What a user asks of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LifeOptions {
    /// What runs its machine.
    pub engine: EngineChoice,
    /// The signal that asks it to end.
    pub stop_signal: StopSignal,
    /// The grace between that signal and the kill, in seconds: negative is without end, absent is Docker's 10 s.
    pub stop_timeout_s: Option<i64>,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// Whether it is removed once it has ended.
    pub auto_remove: bool,
    /// Whether its input ends when the first client that was attached to it leaves.
    pub stdin_once: bool,
    /// Where its output goes.
    pub log: LogOptions,
    /// How its health is found out.
    pub health: Option<HealthOptions>,
}

impl LifeOptions {
    /// The grace between stop signal and kill; `None` is without end.
    #[must_use]
    pub fn stop_grace(&self, asked_s: Option<i64>) -> Option<Duration> {
        match asked_s.or(self.stop_timeout_s) {
            None => Some(DEFAULT_STOP_TIMEOUT),
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        }
    }
}

/// A signal's number in the guest, SIGTERM unless something else is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSignal(pub i32);

impl Default for StopSignal {
    fn default() -> Self {
        StopSignal(SIGTERM)
    }
}

/// Where a container's output goes, as [`crate::logs::LogConfig::parse`] takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// `json-file`, `local` or `none`; empty is the first.
    pub driver: String,
    /// The driver's options.
    pub options: std::collections::BTreeMap<String, String>,
}

/// How a container's health is found out. Absent times are Docker's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Between two probes, in nanoseconds.
    pub interval_ns: Option<u64>,
    /// How long a probe may take, in nanoseconds.
    pub timeout_ns: Option<u64>,
    /// How long failures do not count after a start, in nanoseconds.
    pub start_period_ns: Option<u64>,
    /// Between two probes in that time, in nanoseconds.
    pub start_interval_ns: Option<u64>,
    /// How many failures in a row make it unhealthy.
    pub retries: Option<u32>,
}

/// How far a container's life is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Its phase.
    pub phase: Phase,
    /// Counts its starts.
    pub run: u32,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
    /// When it last ended.
    pub finished_at: Option<Timestamp>,
    /// How it last ended, as shells give it.
    pub exit_code: u8,
    /// Why, when it did not end by itself.
    pub error: String,
    /// Whether the guest's kernel killed something of it for lack of memory.
    pub oom_killed: bool,
    /// Whether somebody stopped it.
    pub by_hand: bool,
    /// How often its policy started it again since it was started by hand.
    pub restarts: u32,
    /// The newest delay before such a start, in milliseconds.
    pub restart_delay_ms: u64,
    /// Its machine, while there is one.
    pub machine: Option<MachineRecord>,
    /// What its probes found.
    pub health: Option<HealthRecord>,
}

impl Default for StateRecord {
    fn default() -> Self {
        StateRecord {
            phase: Phase::Created,
            run: 0,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            by_hand: false,
            restarts: 0,
            restart_delay_ms: 0,
            machine: None,
            health: None,
        }
    }
}

/// A machine that outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The monitor's process.
    pub pid: u32,
    /// What runs it.
    pub engine: capsid_vmm::Engine,
    /// How large it is; unknown of one that an older daemon started.
    #[serde(default)]
    pub size: Option<MachineSize>,
    /// How the guest's network was set up; absent without one.
    #[serde(default)]
    pub network: Option<NetworkRecord>,
}

/// How large a machine is: it stays so for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSize {
    /// Its processors.
    pub vcpus: u8,
    /// Its memory, in MiB.
    pub memory_mib: u32,
}

/// What a container's probes found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The newest results, the oldest first.
    pub log: Vec<HealthResult>,
}

/// The verdict on a container's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not known yet.
    #[default]
    Starting,
    /// The newest probe succeeded.
    Healthy,
    /// Too many failed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is healthy; -1 is a probe that could not be made or took too long.
    pub exit_code: i32,
    /// What it printed, cut.
    pub output: String,
}
