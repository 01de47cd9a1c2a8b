//! What can be seen of a running container: its processes, and what it uses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A process of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As the container sees it.
    pub pid: u32,
    /// Its parent as the container sees it; 0 if that is outside.
    pub parent: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// One letter, as in `/proc/PID/stat`.
    pub state: char,
    /// Number of threads.
    pub threads: u32,
    /// Its nice value.
    pub nice: i32,
    /// Its session.
    pub session: u32,
    /// Its process group.
    pub group: u32,
    /// The device number of its terminal; 0 if it has none.
    pub terminal: u32,
    /// The terminal's foreground process group; 0 if there is none.
    pub foreground: u32,
    /// When it started, in microseconds of the guest's clock (`CLOCK_BOOTTIME`).
    pub started_us: u64,
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Size of its address space, in bytes.
    pub virtual_bytes: u64,
    /// Memory of it that is resident, in bytes.
    pub resident_bytes: u64,
    /// The program's short name.
    pub name: String,
    /// Its arguments; none for a zombie. Long ones are cut, and bytes that are not UTF-8 replaced.
    pub args: Vec<String>,
}

/// The processes of a container at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// In the order of their numbers.
    pub processes: Vec<ProcessInfo>,
    /// How many there are beyond those.
    pub left_out: u32,
    /// The moment, in microseconds of the guest's clock (`CLOCK_BOOTTIME`).
    pub at_us: u64,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
}

/// What a container has used by now, and uses now: its control group's accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// The moment, in microseconds of the guest's clock (`CLOCK_BOOTTIME`).
    pub at_us: u64,
    /// Processors of the machine.
    pub processors: u32,
    /// Processor time, in microseconds.
    pub cpu: CpuStatistics,
    /// Memory.
    pub memory: MemoryStatistics,
    /// Processes and threads, now.
    pub pids: u64,
    /// Their limit, if there is one.
    pub pids_limit: Option<u64>,
    /// By device.
    pub block: Vec<BlockStatistics>,
    /// By interface, without the loopback device.
    pub interfaces: Vec<InterfaceStatistics>,
}

/// `cpu.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStatistics {
    /// All of it.
    pub total_us: u64,
    /// In programs.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
    /// Periods in which there was something to run under a limit.
    pub periods: u64,
    /// Those of them in which the limit was reached.
    pub throttled_periods: u64,
    /// How long processes waited because of that.
    pub throttled_us: u64,
}

/// `memory.*`, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatistics {
    /// Now.
    pub current: u64,
    /// At most so far.
    pub peak: u64,
    /// The limit: the container's own, or the machine's memory.
    pub limit: u64,
    /// How often the limit was reached.
    pub limit_reached: u64,
    /// `memory.stat`.
    pub details: BTreeMap<String, u64>,
}

/// A line of `io.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStatistics {
    /// The device's major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// A line of `/proc/net/dev`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatistics {
    /// The interface.
    pub name: String,
    /// What was received.
    pub received: TrafficStatistics,
    /// What was sent.
    pub sent: TrafficStatistics,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatistics {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}
