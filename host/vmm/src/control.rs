//! The control socket's messages, and the report at the machine's end.
//!
//! One JSON object a line, each request answered by one line, any number of connections. Requests never wait for
//! the guest.

use serde::{Deserialize, Serialize};

/// The longest request line that is read, in bytes; a longer one ends the connection.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// What is asked of the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum ControlRequest {
    /// How the machine is.
    State,
    /// Stops every processor. Answered once they have stopped; nothing happens if they had.
    Pause,
    /// Lets the processors go on; nothing happens if they did.
    Resume,
    /// Ends the machine at once, as pulling the plug would. Answered before the monitor exits.
    Stop,
    /// The newest part of the console's output.
    Console,
    /// Lets go of the lifeline: from here on the machine outlives its launcher. Nothing happens if it did.
    Detach,
}

/// The monitor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum ControlReply {
    /// Done.
    Done,
    /// To [`ControlRequest::State`].
    State {
        /// What the processors do.
        state: MachineState,
        /// When the monitor reached each step of the boot.
        milestones: Vec<VmmMilestone>,
    },
    /// To [`ControlRequest::Console`]; not UTF-8 is replaced.
    Console {
        /// Oldest byte first.
        text: String,
    },
    /// It was not done.
    Failed {
        /// What failed and why.
        message: String,
    },
}

/// What the processors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// They run.
    Running,
    /// They are held.
    Paused,
}

/// A moment in the monitor's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmMilestone {
    /// `process-start`, `machine-built` (memory, kernel and devices stand), `guest-entered` (the first
    /// instruction is about to run).
    pub name: String,
    /// Microseconds of the host's `CLOCK_MONOTONIC`.
    pub at_us: u64,
}

/// Written to [`crate::MachineConfig::report`] when the machine ends, whatever the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// Why it ended.
    pub cause: EndCause,
    /// The newest part of the console's output; not UTF-8 is replaced.
    pub console: String,
    /// When the monitor reached each step of the boot.
    pub milestones: Vec<VmmMilestone>,
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum EndCause {
    /// [`ControlRequest::Stop`].
    Stopped,
    /// The launcher closed the lifeline.
    LauncherGone,
    /// The guest reset or powered off its machine.
    GuestReset,
    /// The guest's kernel panicked (its console says so) and reset the machine.
    GuestPanic,
    /// It could not be built, or the host failed under it.
    Failed {
        /// What failed and on what, the whole chain.
        message: String,
    },
}
