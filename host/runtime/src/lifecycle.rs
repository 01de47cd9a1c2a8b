//! The policy of a container's life: what a request means in each phase, and what follows an exit. Pure functions.
//!
//! ```text
//!            start          process starts        pause
//!  created ────────▶ starting ───────────▶ running ─────▶ paused
//!                      │  ▲                  │  ▲           │
//!          it did not  │  │ back-off is over │  └───────────┘ unpause
//!          start       │  │                  │ process or machine ends
//!                      ▼  │                  ▼
//!                  exited ◀── policy ──── ending ──▶ (auto-remove) removing ──▶ gone
//!                         restarting
//! ```
//!
//! The driver asks here and does what it is told; it decides nothing by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far a container's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its machine boots.
    Starting,
    /// Its process runs.
    Running,
    /// Its processors are held.
    Paused,
    /// Its process or machine has ended; what it wrote is being saved.
    Ending,
    /// It waits to be started again by its restart policy.
    Restarting,
    /// Ended.
    Exited,
    /// It is being removed.
    Removing,
    /// It could not be removed whole, and can only be removed.
    Dead,
}

impl Phase {
    /// Every phase, in the order of a life.
    pub const ALL: [Phase; 9] = [
        Phase::Created,
        Phase::Starting,
        Phase::Running,
        Phase::Paused,
        Phase::Ending,
        Phase::Restarting,
        Phase::Exited,
        Phase::Removing,
        Phase::Dead,
    ];

    /// Docker's word for it (`State.Status`). A container that boots is one that was not started yet, and one that
    /// ends still runs.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Phase::Created | Phase::Starting => "created",
            Phase::Running | Phase::Ending => "running",
            Phase::Paused => "paused",
            Phase::Restarting => "restarting",
            Phase::Exited => "exited",
            Phase::Removing => "removing",
            Phase::Dead => "dead",
        }
    }

    /// Whether Docker would say that it runs (`State.Running`).
    #[must_use]
    pub fn counts_as_running(self) -> bool {
        match self {
            Phase::Running | Phase::Paused | Phase::Ending | Phase::Restarting => true,
            Phase::Created | Phase::Starting | Phase::Exited | Phase::Removing | Phase::Dead => false,
        }
    }

    /// Whether the phase is one in which the driver waits for something that it began, and requests have to wait.
    #[must_use]
    pub fn is_passing(self) -> bool {
        match self {
            Phase::Starting | Phase::Ending | Phase::Removing => true,
            Phase::Created
            | Phase::Running
            | Phase::Paused
            | Phase::Restarting
            | Phase::Exited
            | Phase::Dead => false,
        }
    }
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Start its process.
    Start,
    /// End it with its stop signal, then by force.
    Stop,
    /// Stop and start.
    Restart,
    /// Send a signal.
    Kill {
        /// Whether it is SIGKILL.
        for_good: bool,
    },
    /// Hold its processors.
    Pause,
    /// Let them go on.
    Unpause,
    /// Run a further process in it, or look at those that run.
    Exec,
    /// Connect to its streams.
    Attach,
    /// Read or write its files, wherever they are.
    Files,
    /// Change its name or limits.
    Change,
    /// Remove it.
    Remove {
        /// Even if it runs.
        force: bool,
    },
}

/// What is to be done about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Do,
    /// Resume the machine first, then do it.
    ResumeThenDo,
    /// End the container by force first, then do it.
    EndThenDo,
    /// Give up the restart that is due, then do what is left of it.
    CancelRestart,
    /// It is so already.
    AlreadySo,
    /// Ask again when the phase has passed.
    Later,
    /// No.
    Refuse(Refused),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It does not run.
    NotRunning,
    /// It runs, and the request is for one that does not.
    IsRunning,
    /// It is paused, and the request is for one that is not.
    IsPaused,
    /// It is paused already.
    AlreadyPaused,
    /// It is not paused.
    NotPaused,
    /// It waits to be restarted.
    IsRestarting,
    /// It is being removed, or can only be removed.
    IsRemoved,
}

/// What `request` means in `phase`.
#[must_use]
pub fn decide(phase: Phase, request: Request) -> Decision {
    match phase {
        Phase::Created | Phase::Exited => at_rest(request),
        Phase::Starting | Phase::Ending => in_passing(request),
        Phase::Running => running(request),
        Phase::Paused => paused(request),
        Phase::Restarting => restarting(request),
        Phase::Removing => removing(request),
        Phase::Dead => dead(request),
    }
}

fn at_rest(request: Request) -> Decision {
    match request {
        Request::Start
        | Request::Restart
        | Request::Attach
        | Request::Files
        | Request::Change
        | Request::Remove { .. } => Decision::Do,
        Request::Stop => Decision::AlreadySo,
        Request::Unpause => Decision::Refuse(Refused::NotPaused),
        Request::Kill { .. } | Request::Pause | Request::Exec => Decision::Refuse(Refused::NotRunning),
    }
}

/// Attaching does not disturb what is under way, and a client may want to hear all of it.
fn in_passing(request: Request) -> Decision {
    match request {
        Request::Attach => Decision::Do,
        Request::Start
        | Request::Stop
        | Request::Restart
        | Request::Kill { .. }
        | Request::Pause
        | Request::Unpause
        | Request::Exec
        | Request::Files
        | Request::Change
        | Request::Remove { .. } => Decision::Later,
    }
}

fn running(request: Request) -> Decision {
    match request {
        Request::Stop
        | Request::Restart
        | Request::Kill { .. }
        | Request::Pause
        | Request::Exec
        | Request::Attach
        | Request::Files
        | Request::Change => Decision::Do,
        Request::Start => Decision::AlreadySo,
        Request::Unpause => Decision::Refuse(Refused::NotPaused),
        Request::Remove { force: true } => Decision::EndThenDo,
        Request::Remove { force: false } => Decision::Refuse(Refused::IsRunning),
    }
}

fn paused(request: Request) -> Decision {
    match request {
        Request::Stop | Request::Restart | Request::Kill { for_good: true } => Decision::ResumeThenDo,
        // The signal waits in the guest until it goes on, as with a frozen group of processes.
        Request::Kill { for_good: false } | Request::Unpause | Request::Change => Decision::Do,
        Request::Pause => Decision::Refuse(Refused::AlreadyPaused),
        Request::Remove { force: true } => Decision::EndThenDo,
        // Its agent is as still as its process.
        Request::Start
        | Request::Exec
        | Request::Attach
        | Request::Files
        | Request::Remove { force: false } => Decision::Refuse(Refused::IsPaused),
    }
}

fn restarting(request: Request) -> Decision {
    match request {
        Request::Start => Decision::AlreadySo,
        Request::Stop | Request::Restart | Request::Kill { .. } | Request::Remove { force: true } => {
            Decision::CancelRestart
        }
        Request::Change => Decision::Do,
        Request::Unpause => Decision::Refuse(Refused::NotPaused),
        Request::Pause
        | Request::Exec
        | Request::Attach
        | Request::Files
        | Request::Remove { force: false } => Decision::Refuse(Refused::IsRestarting),
    }
}

fn removing(request: Request) -> Decision {
    match request {
        Request::Remove { .. } => Decision::Later,
        Request::Start
        | Request::Stop
        | Request::Restart
        | Request::Kill { .. }
        | Request::Pause
        | Request::Unpause
        | Request::Exec
        | Request::Attach
        | Request::Files
        | Request::Change => Decision::Refuse(Refused::IsRemoved),
    }
}

fn dead(request: Request) -> Decision {
    match request {
        Request::Remove { .. } => Decision::Do,
        Request::Stop => Decision::AlreadySo,
        Request::Unpause => Decision::Refuse(Refused::NotPaused),
        Request::Kill { .. } | Request::Pause | Request::Exec => Decision::Refuse(Refused::NotRunning),
        Request::Start | Request::Restart | Request::Attach | Request::Files | Request::Change => {
            Decision::Refuse(Refused::IsRemoved)
        }
    }
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Always, unless it was stopped by hand; a new daemon starts it even then.
    Always,
    /// Always, unless it was stopped by hand.
    UnlessStopped,
    /// When it failed.
    OnFailure {
        /// How often at most; 0 is without end.
        retries: u32,
    },
}

/// What is known of an end when it is decided what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Whether the container failed: a non-zero exit code, or its machine ended under it.
    pub failed: bool,
    /// Whether somebody stopped or killed it.
    pub by_hand: bool,
    /// How long it had run.
    pub ran_for: Duration,
    /// How often its policy has started it again since it was started by hand.
    pub restarts: u32,
    /// The delay before the newest of those.
    pub last_delay: Duration,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It stays as it is.
    Stay,
    /// It is removed.
    Remove,
    /// It is started again.
    Restart {
        /// After this.
        after: Duration,
    },
}

/// The first delay before a restart (moby, `restartmanager.defaultTimeout`).
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest (moby, `restartmanager.maxRestartTimeout`).
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that ran as long as this starts anew with the first delay (moby, `restartmanager.ShouldRestart`).
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What follows the end of a container with that policy. Docker refuses auto-removal beside a policy, so the policy
/// decides first.
#[must_use]
pub fn after_end(policy: RestartPolicy, auto_remove: bool, end: Ending) -> Next {
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => !end.by_hand,
        RestartPolicy::OnFailure { retries } => {
            !end.by_hand && end.failed && (retries == 0 || end.restarts < retries)
        }
    };
    if again {
        return Next::Restart { after: delay(end) };
    }
    if auto_remove { Next::Remove } else { Next::Stay }
}

fn delay(end: Ending) -> Duration {
    if end.last_delay.is_zero() || end.ran_for >= GOOD_RUN {
        return FIRST_DELAY;
    }
    end.last_delay.saturating_mul(2).min(LONGEST_DELAY)
}

/// Whether a daemon that starts starts the container, too, which does not run now.
#[must_use]
pub fn starts_with_daemon(policy: RestartPolicy, phase: Phase, by_hand: bool) -> bool {
    match policy {
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => phase == Phase::Restarting,
        RestartPolicy::Always => matches!(phase, Phase::Restarting | Phase::Exited),
        RestartPolicy::UnlessStopped => phase == Phase::Restarting || (phase == Phase::Exited && !by_hand),
    }
}

#[cfg(test)]
mod tests;
