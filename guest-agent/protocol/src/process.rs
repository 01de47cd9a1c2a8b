//! What a process is started with.

use serde::{Deserialize, Serialize};

use crate::ProcessId;

/// A process to start. The host has already merged the image's and the user's wishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its name; [`ProcessId::INIT`] is the container's own process and comes first.
    pub process: ProcessId,
    /// Program and arguments; at least the program. A program without a slash is looked for in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`, in order, the last of a name wins. The agent adds `HOME` of the user if it is missing.
    pub env: Vec<String>,
    /// Absolute working folder; made, with its parents, if it is missing and the process is [`ProcessId::INIT`]. For
    /// another it must exist, as with `docker exec`.
    pub cwd: String,
    /// Who it runs as.
    pub identity: Identity,
    /// A terminal of this size is its stdio, instead of three streams.
    pub terminal: Option<TerminalSize>,
    /// Whether its stdin is connected; `/dev/null` otherwise. A process with a terminal reads from that either way.
    pub stdin: bool,
    /// Resource limits; those not named stay as the machine has them.
    pub rlimits: Vec<Rlimit>,
    /// Capabilities of the process (bounding, permitted, effective; inheritable and ambient stay empty, as Docker
    /// has it). A user other than root keeps them in the bounding set alone.
    pub capabilities: Vec<Capability>,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Puts a small init in front that forwards signals and reaps (`--init`).
    pub init: bool,
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `USER[:GROUP]`, each a name or a number, resolved by the container's own /etc/passwd and /etc/group; empty
    /// is root.
    pub user: String,
    /// Further groups, names or numbers (`--group-add`).
    pub additional_groups: Vec<String>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// One resource limit; `u64::MAX` is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What is limited.
    pub kind: RlimitKind,
    /// The limit in force.
    pub soft: u64,
    /// The ceiling for the limit in force.
    pub hard: u64,
}

macro_rules! named_numbers {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant = $number,)*
        }

        impl $name {
            /// All of them, by number.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The kernel's number for it.
            #[must_use]
            pub fn number(self) -> u8 {
                self as u8
            }

            /// Its name on the wire and on command lines.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The one of that name, as [`Self::name`] gives it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}

named_numbers! {
    /// A resource of `setrlimit`, with the numbers of x86-64 Linux (`asm-generic/resource.h`) and the names of
    /// Docker's `--ulimit`.
    RlimitKind {
        /// Processor time, seconds.
        Cpu = 0 "cpu",
        /// Size of a file, bytes.
        Fsize = 1 "fsize",
        /// Size of the data segment, bytes.
        Data = 2 "data",
        /// Size of the stack, bytes.
        Stack = 3 "stack",
        /// Size of a core file, bytes.
        Core = 4 "core",
        /// Resident pages; without effect in today's kernels.
        Rss = 5 "rss",
        /// Processes of the user.
        Nproc = 6 "nproc",
        /// Open files.
        Nofile = 7 "nofile",
        /// Locked memory, bytes.
        Memlock = 8 "memlock",
        /// Address space, bytes.
        As = 9 "as",
        /// File locks.
        Locks = 10 "locks",
        /// Pending signals.
        Sigpending = 11 "sigpending",
        /// Bytes in message queues.
        Msgqueue = 12 "msgqueue",
        /// Ceiling of the nice value.
        Nice = 13 "nice",
        /// Ceiling of the real-time priority.
        Rtprio = 14 "rtprio",
        /// Real-time processor time without a blocking call, µs.
        Rttime = 15 "rttime",
    }
}

named_numbers! {
    /// A capability, with the numbers of `linux/capability.h` and the names that OCI uses.
    Capability {
        /// Change owners.
        Chown = 0 "CAP_CHOWN",
        /// Bypass permission checks on files.
        DacOverride = 1 "CAP_DAC_OVERRIDE",
        /// Bypass read and search checks.
        DacReadSearch = 2 "CAP_DAC_READ_SEARCH",
        /// Act on files of others.
        Fowner = 3 "CAP_FOWNER",
        /// Keep set-id bits on change.
        Fsetid = 4 "CAP_FSETID",
        /// Signal processes of others.
        Kill = 5 "CAP_KILL",
        /// Change groups.
        Setgid = 6 "CAP_SETGID",
        /// Change users.
        Setuid = 7 "CAP_SETUID",
        /// Change capabilities.
        Setpcap = 8 "CAP_SETPCAP",
        /// Change immutable flags.
        LinuxImmutable = 9 "CAP_LINUX_IMMUTABLE",
        /// Bind ports below 1024.
        NetBindService = 10 "CAP_NET_BIND_SERVICE",
        /// Broadcast and listen to multicast.
        NetBroadcast = 11 "CAP_NET_BROADCAST",
        /// Administer the network.
        NetAdmin = 12 "CAP_NET_ADMIN",
        /// Raw and packet sockets.
        NetRaw = 13 "CAP_NET_RAW",
        /// Lock memory.
        IpcLock = 14 "CAP_IPC_LOCK",
        /// Bypass checks on System V IPC.
        IpcOwner = 15 "CAP_IPC_OWNER",
        /// Load kernel modules.
        SysModule = 16 "CAP_SYS_MODULE",
        /// Port and memory access.
        SysRawio = 17 "CAP_SYS_RAWIO",
        /// chroot.
        SysChroot = 18 "CAP_SYS_CHROOT",
        /// Trace any process.
        SysPtrace = 19 "CAP_SYS_PTRACE",
        /// Process accounting.
        SysPacct = 20 "CAP_SYS_PACCT",
        /// Mount, namespaces and much else.
        SysAdmin = 21 "CAP_SYS_ADMIN",
        /// Reboot.
        SysBoot = 22 "CAP_SYS_BOOT",
        /// Raise priorities.
        SysNice = 23 "CAP_SYS_NICE",
        /// Exceed resource limits.
        SysResource = 24 "CAP_SYS_RESOURCE",
        /// Set the clock.
        SysTime = 25 "CAP_SYS_TIME",
        /// Configure terminals.
        SysTtyConfig = 26 "CAP_SYS_TTY_CONFIG",
        /// Make device nodes.
        Mknod = 27 "CAP_MKNOD",
        /// Leases on files.
        Lease = 28 "CAP_LEASE",
        /// Write audit records.
        AuditWrite = 29 "CAP_AUDIT_WRITE",
        /// Configure auditing.
        AuditControl = 30 "CAP_AUDIT_CONTROL",
        /// Set file capabilities.
        Setfcap = 31 "CAP_SETFCAP",
        /// Override mandatory access control.
        MacOverride = 32 "CAP_MAC_OVERRIDE",
        /// Configure mandatory access control.
        MacAdmin = 33 "CAP_MAC_ADMIN",
        /// The kernel's log.
        Syslog = 34 "CAP_SYSLOG",
        /// Alarms that wake the system.
        WakeAlarm = 35 "CAP_WAKE_ALARM",
        /// Block suspend.
        BlockSuspend = 36 "CAP_BLOCK_SUSPEND",
        /// Read audit records.
        AuditRead = 37 "CAP_AUDIT_READ",
        /// Performance monitoring.
        Perfmon = 38 "CAP_PERFMON",
        /// Privileged BPF.
        Bpf = 39 "CAP_BPF",
        /// Checkpoint and restore.
        CheckpointRestore = 40 "CAP_CHECKPOINT_RESTORE",
    }
}

impl Capability {
    /// What Docker gives a container that asks for nothing (moby, `oci/caps/defaults.go`).
    pub const DOCKER_DEFAULT: &[Capability] = &[
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ];
}

/// The process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedProcess {
    /// Its number in the container's process namespace.
    pub pid: u32,
    /// Microseconds of the guest's clock (`CLOCK_MONOTONIC`) after it executed its program.
    pub at_us: u64,
}
