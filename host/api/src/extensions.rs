//! What capsid adds to Docker's API. Clients that do not know of it lose nothing.

use serde::{Deserialize, Serialize};

/// Annotation of a container's `HostConfig` that chooses what runs its machine: `kvm` or `emulated`.
pub const ENGINE_ANNOTATION: &str = "capsid.engine";

/// Header of the answer to `POST /containers/create`: what a person should know of the engine that will run it, such as
/// that there is no KVM. No warning in the answer's body, since that would be in the way of every client's output.
pub const NOTICE_HEADER: &str = "capsid-notice";

/// Parameter of `POST /images/load`, any number of times: `NAME=VALUE`, a limit on what an image may cost.
pub const LIMIT_PARAMETER: &str = "capsid-limit";

/// Exit code of a daemon that does not start because another one keeps the same state folder (sysexits.h,
/// `EX_TEMPFAIL`). A client that started it goes on trying to connect to the other.
pub const STATE_FOLDER_TAKEN: u8 = 75;

/// Field `Capsid` of the answer to `POST /containers/{id}/wait`, beside `StatusCode`: what an end is better understood
/// with, and what cannot be asked for any more when the container is removed with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndNotes {
    /// What a person should be told: that memory ran out, or that the machine was lost.
    pub notices: Vec<String>,
    /// What ran the machine.
    pub engine: String,
    /// The steps of the container's last start and its end.
    pub timeline: Vec<TimelineStep>,
}

/// One step on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineStep {
    /// What had happened then.
    pub name: String,
    /// Who saw it: `host`, `monitor` or `guest`.
    #[serde(default)]
    pub observer: String,
    /// When, in microseconds of the host's `CLOCK_MONOTONIC`, which its clients share.
    pub at_us: u64,
}
