//! What a container's root file system and its surroundings are made of.

use serde::{Deserialize, Serialize};

use crate::network::NetworkSetup;

/// Everything that the agent needs before a process can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareRoot {
    /// How many partitions of the layer disk (the machine's first block device) hold the image's layers, from the
    /// lowest, partition 1, up.
    pub layers: u32,
    /// Where changes go.
    pub writable: WritableLayer,
    /// Mounts the root read-only (`--read-only`).
    pub read_only: bool,
    /// Further tmpfs mounts (`--tmpfs`).
    pub tmpfs: Vec<TmpfsMount>,
    /// Size of /dev/shm in bytes.
    pub shm_bytes: u64,
    /// The machine's host name; also written to /etc/hostname and, unless [`Self::extra_hosts`] names it, to /etc/hosts:
    /// at the addresses of [`Self::network`], or at 127.0.1.1 where there is none.
    pub hostname: String,
    /// Further lines of /etc/hosts: address and name.
    pub extra_hosts: Vec<(String, String)>,
    /// Content of /etc/resolv.conf; `None` leaves the image's own.
    pub resolv_conf: Option<String>,
    /// Limits on all of the container's processes together.
    pub limits: Limits,
    /// Whether kernel interfaces are open (`--privileged`): no masked or read-only paths below /proc and /sys.
    pub privileged: bool,
    /// How the machine's network card is set up; `None` leaves it down, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSetup>,
    /// The host's time, in nanoseconds since 1970, to set the guest's clock by.
    pub realtime_ns: Option<u64>,
    /// Folders that are made where there are none: absolute paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,
    /// Parameters of the kernel, as sysctl(8) names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<(String, String)>,
}

/// Where changes to the root go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WritableLayer {
    /// To the machine's second block device, which holds an ext4 file system. The changes are below its folder
    /// `upper`, in overlayfs's form; `work` beside it is overlayfs's own.
    Disk,
    /// To the guest's memory, at most this many bytes.
    Memory {
        /// Size limit in bytes.
        bytes: u64,
    },
}

/// A tmpfs, as `--tmpfs PATH:OPTIONS` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub path: String,
    /// Options as of mount(8), comma separated, e.g. `size=64m,mode=1777,noexec`; Docker's defaults are
    /// `nosuid,nodev,noexec` with mode 1777.
    pub options: String,
}

/// Limits on the container's processes together; absent means none beyond the machine's own size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes (cgroup `memory.max`).
    pub memory_bytes: Option<u64>,
    /// Processor time in microseconds for each 100,000 µs (cgroup `cpu.max`).
    pub cpu_quota_us: Option<u64>,
    /// Number of processes and threads (cgroup `pids.max`).
    pub pids: Option<u64>,
}

/// New limits for a container that has its machine already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChanges {
    /// Memory; absent, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Limit>,
    /// Processor time in microseconds for each 100,000 µs; absent, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota_us: Option<Limit>,
    /// Number of processes and threads; absent, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<Limit>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// As much as there is.
    None,
    /// At most this.
    Most(u64),
}

/// The root stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedRoot {
    /// Microseconds of the guest's clock (`CLOCK_MONOTONIC`) when it stood.
    pub at_us: u64,
}
