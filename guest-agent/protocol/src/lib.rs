//! What the host and the guest agent say to each other.
//!
//! Both ends depend on this crate; it depends on neither, does no I/O of its own beyond reading and writing
//! frames on what it is given, and never trusts a length.
//!
//! # Connections
//!
//! The agent listens on [`AGENT_PORT`]; every connection starts with one [`Opening`] frame from the host that
//! says what the connection is:
//!
//! ```text
//!  host                                      agent
//!   │   ◀── dials READY_PORT once: Ready ───   │   listening now, with its boot milestones
//!   │   ─── Opening::Control ─────────────▶    │
//!   │   ◀── ControlAccepted / refusal ──────   │   then Request ▶ / ◀ Response frames, matched by id
//!   │   ─── Opening::Output, from a byte ─▶    │
//!   │   ◀── OutputAccepted / refusal ───────   │   then raw bytes ◀, half-close = the end; acknowledgements ▶
//!   │   ─── Opening::Input ───────────────▶    │
//!   │   ◀── accepted / refusal ─────────────   │   then raw bytes ▶, half-close = the end
//!   │   ─── Opening::Files ───────────────▶    │   then as [`FilesWork`] says
//! ```
//!
//! Control never queues behind data. A control connection may end and another be opened at any time (a host
//! program that was restarted): the container goes on. So may an output's, from any byte that is not acknowledged:
//! whatever kills the host program, no byte is lost.
//!
//! # Compatibility
//!
//! Frames carry JSON. Enums and structs are append-only: new fields are optional with a default, new variants go
//! last, and [`Version`] is raised when an old peer would misunderstand. `tests/wire.txt` holds the wire form of
//! every message; a change there is a change of the protocol.

#![forbid(unsafe_code)]

mod body;
mod files;
mod frame;
mod message;
mod network;
mod observe;
mod process;
mod root;

pub use body::{
    BodyReader, BodyWriter, MAX_PIECE_BYTES, PIECE_HEADER_BYTES, decode_piece_header, encode_piece_header,
};
pub use files::{ChangeKind, FileChange, FilesWork, PathStat};
pub use frame::{
    FRAME_HEADER_BYTES, FrameAssembler, FrameError, MAX_BODY_BYTES, RequestId, decode_body, decode_header,
    encode_frame, read_frame, write_frame,
};
pub use message::{
    ControlAccepted, ErrorCode, ExitReport, ExitStatus, Milestone, Opening, OpeningReply, OutputAccepted,
    ProcessId, Ready, Refusal, Request, Response, StreamKind, Version, VersionRange,
};
pub use network::{InterfaceAddress, NetworkSetup};
pub use observe::{
    BlockStatistics, CpuStatistics, InterfaceStatistics, MemoryStatistics, ProcessInfo, Processes,
    Statistics, TrafficStatistics,
};
pub use process::{Capability, Identity, ProcessSpec, Rlimit, RlimitKind, StartedProcess, TerminalSize};
pub use root::{Limit, LimitChanges, Limits, PrepareRoot, PreparedRoot, TmpfsMount, WritableLayer};

/// vsock port on which the agent listens, in the guest.
pub const AGENT_PORT: u32 = 1024;

/// vsock port on the host that the agent dials once, when it listens.
pub const READY_PORT: u32 = 1025;

/// Bytes of one output that the agent keeps for a host that has not acknowledged them. Beyond it the process waits.
pub const OUTPUT_WINDOW_BYTES: usize = 1 << 20;

/// Bytes of one acknowledgement of an output.
pub const ACKNOWLEDGEMENT_BYTES: usize = 8;

/// Versions that this build of the protocol speaks.
pub const SPOKEN: VersionRange = VersionRange { oldest: Version(1), newest: Version(1) };
