//! Does /dev/kvm work well enough to run a guest?
//!
//! That the device opens says little: a KVM in software opens, creates machines, and would take minutes over a
//! kernel's boot. So a loop of the guest is timed at the privilege of a kernel. Called by whoever chooses an engine;
//! it is bounded in time even when the guest never comes back.
//!
//! What a machine's processor can do does not change until it is started again, so that much may be remembered. What
//! a user may open can change at any time, and is looked at every time.

mod remembered;
mod trial;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest that [`trial::ITERATIONS`] of a two-instruction loop may take. Hardware takes 0.1 ms, nested in an
/// emulated host about 1 ms, a software KVM over 100 ms: this is well clear of both sides.
pub const LIMIT: Duration = Duration::from_millis(20);
/// A loop that took too long is timed again, as the host may have been busy: noise only ever adds.
const ATTEMPTS: u32 = 3;
/// Beyond this no noise explains it.
const HOPELESS: Duration = Duration::from_millis(100);

const DEVICE: &str = "/dev/kvm";

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Machines can be run.
    Usable {
        /// How long the loop took.
        took: Duration,
    },
    /// They cannot.
    Unusable {
        /// For people to read and for callers to tell apart.
        reason: UnusableReason,
    },
}

/// Why hardware virtualisation cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnusableReason {
    /// No device, so no driver, or none was passed into this container or machine.
    Missing,
    /// The device is there, and this user may not open it.
    NoPermission,
    /// The device is there, and there is no driver behind it, or another hypervisor has the processor.
    Unavailable {
        /// The system's words.
        error: String,
    },
    /// Not the one version that there has been since 2007.
    ApiVersion {
        /// What the kernel says.
        found: i32,
    },
    /// The host's KVM cannot do something that is needed.
    Lacks {
        /// The capability.
        capability: String,
    },
    /// It works, at a speed that no guest could be run at.
    TooSlow {
        /// How long the loop took.
        took: Duration,
    },
    /// The guest did not come back.
    Stuck,
    /// The guest failed where none should.
    Failed {
        /// What KVM said.
        message: String,
    },
}

impl fmt::Display for UnusableReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnusableReason::Missing => write!(out, "there is no {DEVICE}"),
            UnusableReason::NoPermission => {
                write!(out, "no permission to open {DEVICE}: add this user to the group kvm and log in again")
            }
            UnusableReason::Unavailable { error } => write!(out, "{DEVICE} does not work here: {error}"),
            UnusableReason::ApiVersion { found } => {
                write!(out, "{DEVICE} speaks version {found} of its interface, not {API_VERSION}")
            }
            UnusableReason::Lacks { capability } => write!(out, "the host's KVM lacks {capability}"),
            UnusableReason::TooSlow { took } => write!(
                out,
                "{DEVICE} is too slow: {iterations} iterations of a loop in a guest took {took:.1?}, where hardware \
                 takes 0.1 ms and {LIMIT:?} is the limit (a KVM in software?)",
                iterations = trial::ITERATIONS
            ),
            UnusableReason::Stuck => {
                write!(out, "a guest of a few instructions did not come back from {DEVICE}")
            }
            UnusableReason::Failed { message } => {
                write!(out, "a guest of a few instructions failed: {message}")
            }
        }
    }
}

/// `KVM_API_VERSION` (linux/kvm.h).
const API_VERSION: i32 = 12;

/// Finds out, in a few milliseconds; in one or two seconds where it is broken.
#[must_use]
pub fn probe() -> Probe {
    match open() {
        Ok(_device) => measure(),
        Err(reason) => Probe::Unusable { reason },
    }
}

/// As [`probe`], but believes what is remembered in `cache_dir` from earlier in this boot, and remembers what it finds.
/// Whether the device can be opened is looked at in any case. A cache that cannot be read or written is done without.
#[must_use]
pub fn probe_remembered(cache_dir: &Path) -> Probe {
    let device = match open() {
        Ok(device) => device,
        Err(reason) => return Probe::Unusable { reason },
    };
    let Some(circumstances) = remembered::Circumstances::of(&device) else { return measure() };
    if let Some(probe) = remembered::recall(cache_dir, &circumstances) {
        return probe;
    }
    let probe = measure();
    if probe.is_lasting() {
        remembered::store(cache_dir, circumstances, &probe);
    }
    probe
}

impl Probe {
    /// A matter of the processor and its driver, rather than of the moment.
    fn is_lasting(&self) -> bool {
        match self {
            Probe::Usable { .. } => true,
            Probe::Unusable { reason } => matches!(
                reason,
                UnusableReason::ApiVersion { .. }
                    | UnusableReason::Lacks { .. }
                    | UnusableReason::TooSlow { .. }
            ),
        }
    }
}

fn open() -> Result<File, UnusableReason> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UnusableReason::Missing,
        io::ErrorKind::PermissionDenied => UnusableReason::NoPermission,
        _ => UnusableReason::Unavailable { error: error.to_string() },
    })
}

fn measure() -> Probe {
    let mut best: Option<Duration> = None;
    for _ in 0..ATTEMPTS {
        match trial::run() {
            Ok(took) => best = Some(best.map_or(took, |best| best.min(took))),
            Err(reason) => return Probe::Unusable { reason },
        }
        if let Some(took) = best.filter(|took| *took <= LIMIT) {
            return Probe::Usable { took };
        }
        if best.is_some_and(|took| took > HOPELESS) {
            break;
        }
    }
    Probe::Unusable { reason: UnusableReason::TooSlow { took: best.unwrap_or_default() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_always_comes_to_an_answer_with_a_reason() {
        let probe = probe();
        println!("{probe:?}");
        match probe {
            Probe::Usable { took } => assert!(took <= LIMIT, "{took:?}"),
            Probe::Unusable { reason } => assert!(!reason.to_string().is_empty()),
        }
    }

    #[test]
    fn figures_and_names_are_in_the_reasons() {
        let slow = UnusableReason::TooSlow { took: Duration::from_millis(123) }.to_string();
        assert!(slow.contains("123.0ms") && slow.contains("100000 iterations"), "{slow}");
        assert!(UnusableReason::NoPermission.to_string().contains("group kvm"));
    }
}
