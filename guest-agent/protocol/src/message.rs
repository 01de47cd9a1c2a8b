//! The messages of the control connection, and the openings of all connections.

use serde::{Deserialize, Serialize};

use crate::{
    FileChange, FilesWork, LimitChanges, PathStat, PrepareRoot, PreparedRoot, ProcessSpec, Processes,
    StartedProcess, Statistics, TerminalSize,
};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32);

/// The versions that one side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest version that is spoken.
    pub oldest: Version,
    /// The newest version that is spoken.
    pub newest: Version,
}

impl VersionRange {
    /// The newest version that both sides speak, if there is one.
    #[must_use]
    pub fn agree(self, other: VersionRange) -> Option<Version> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Names a process of one container for its whole life. Chosen by the host and never used twice in one machine;
/// the container's own process is [`ProcessId::INIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// The container's own process: when it ends, the container ends.
    pub const INIT: ProcessId = ProcessId(0);
}

/// A moment of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Milestone {
    /// What had happened, e.g. `agent-start`.
    pub name: String,
    /// Microseconds since the guest's kernel started its clock (`CLOCK_MONOTONIC`).
    pub at_us: u64,
}

/// The one frame that the agent sends to [`crate::READY_PORT`]: it listens now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Versions that the agent speaks.
    pub speaks: VersionRange,
    /// The agent's own version, for people.
    pub agent: String,
    /// The guest kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// What the agent saw of the boot so far.
    pub milestones: Vec<Milestone>,
}

/// The first frame of a connection to the agent. Its request id is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "open")]
pub enum Opening {
    /// Requests and responses.
    Control {
        /// Versions that the host speaks.
        speaks: VersionRange,
    },
    /// What a process writes, from one byte of it on: raw bytes from the agent, acknowledgements from the host. May be
    /// opened before the process is started, so that no byte waits; the agent keeps a few such connections until then.
    /// A newer connection takes the place of an older one, whether or not that still stands: the host's program may be
    /// half dead.
    ///
    /// An acknowledgement is the count of bytes, since the process's start, that the agent need not keep any more, as
    /// a 64-bit little-endian number ([`crate::ACKNOWLEDGEMENT_BYTES`]); half of one at the connection's end means
    /// nothing, and one of more than was sent ends the connection. The agent keeps what is not acknowledged, at most
    /// [`crate::OUTPUT_WINDOW_BYTES`]; beyond that the process waits.
    ///
    /// The agent half-closes the connection after the last byte, and lets go of it once that is acknowledged.
    Output {
        /// Whose output.
        process: ProcessId,
        /// Which of its outputs.
        stream: StreamKind,
        /// How many bytes the host has, which acknowledges them. At least as many as are acknowledged, at most as many
        /// as the agent has read of the process. Absent: as many as are acknowledged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
    },
    /// Raw bytes for a process's stdin, or for its terminal. Like an output it may come early, and the newest stands.
    ///
    /// Half-closing it ends the process's stdin, after which the agent closes the connection; a terminal has no such
    /// end. A connection that is closed for both directions at once ends stdin a moment later if the control connection
    /// stands, and leaves it open for another if that has ended as well: the host program was killed.
    Input {
        /// Whose input.
        process: ProcessId,
    },
    /// Work on the container's files.
    Files(FilesWork),
}

/// Something that a process writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The terminal of a process that has one, and then neither of the others.
    Terminal,
}

/// The agent's one answer to an [`Opening`]; its request id is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpeningReply {
    /// The control connection stands.
    Control(ControlAccepted),
    /// The bytes of an output follow.
    Output(OutputAccepted),
    /// The bytes of an input may follow.
    Input,
    /// The connection is closed after this frame.
    Refused(Refusal),
    /// To [`FilesWork::StatPath`], and to [`FilesWork::ReadTree`] before the body.
    Path(PathStat),
    /// To all other work on files: it has begun.
    Files,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlAccepted {
    /// The version that is spoken from here on.
    pub version: Version,
}

/// Where an output stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputAccepted {
    /// Bytes since the process's start that are acknowledged, those by this opening included: where the bytes that
    /// follow begin.
    pub acknowledged: u64,
    /// Bytes that the agent has read of the process so far.
    pub produced: u64,
}

/// What the host asks for. Each request is answered exactly once, in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Mounts the root and sets the machine up. Once in a machine's life, before any process.
    PrepareRoot(Box<PrepareRoot>),
    /// Starts a process in the prepared root.
    StartProcess(Box<ProcessSpec>),
    /// Sends a signal to one process.
    Signal {
        /// Which process.
        process: ProcessId,
        /// The signal's number in the guest (Linux, x86-64 numbering).
        signal: i32,
    },
    /// Sets the size of a process's terminal.
    Resize {
        /// Which process.
        process: ProcessId,
        /// The new size.
        size: TerminalSize,
    },
    /// Answered with [`Response::Exited`] once the process has ended, at once if it has already. Any number of
    /// waits may be under way.
    Wait {
        /// Which process.
        process: ProcessId,
    },
    /// Ends every process, writes everything to the disks and unmounts them. Answered when that is done; the
    /// machine then reboots, which its monitor takes as its end: at once when the host closes the control connection,
    /// within a quarter of a second otherwise.
    Shutdown,
    /// What runs in the container.
    Processes,
    /// What the container uses.
    Statistics,
    /// Changes the container's limits, as far as they are named; the others stay.
    SetLimits(LimitChanges),
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done, and there is nothing to say of it.
    Done,
    /// To [`Request::PrepareRoot`].
    Prepared(PreparedRoot),
    /// To [`Request::StartProcess`].
    Started(StartedProcess),
    /// To [`Request::Wait`].
    Exited(ExitReport),
    /// It was not done.
    Failed(Refusal),
    /// Some of the answer to [`FilesWork::Changes`].
    Changes(Vec<FileChange>),
    /// To [`Request::Processes`].
    Processes(Processes),
    /// To [`Request::Statistics`].
    Statistics(Box<Statistics>),
}

/// How a process ended, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How it ended.
    pub status: ExitStatus,
    /// Microseconds of the guest's clock (`CLOCK_MONOTONIC`) when the agent reaped it.
    pub at_us: u64,
    /// Whether the guest's kernel killed something of the container for lack of memory.
    #[serde(default)]
    pub oom_killed: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called `exit`.
    Code(u8),
    /// A signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The status as shells and Docker give it: 128 more than the signal's number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what failed and on what, the whole chain.
    pub message: String,
}

/// The closed set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense, whatever the state.
    InvalidArgument,
    /// No such process, user, group or file.
    NotFound,
    /// It is there already.
    Conflict,
    /// Not now: the root is not prepared, the process has ended, …
    InvalidState,
    /// This agent or kernel cannot do it.
    Unsupported,
    /// The guest's kernel refused, or the agent is at fault.
    Internal,
    /// The program to start does not exist (exit code 127 of `run`).
    CommandNotFound,
    /// The program to start exists and cannot be executed (exit code 126 of `run`).
    CommandNotExecutable,
}
