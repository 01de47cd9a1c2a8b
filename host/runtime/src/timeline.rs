//! When each step of a container's start happened.
//!
//! Host steps are absolute moments of `CLOCK_MONOTONIC`, which the monitor's process shares. Guest steps are told by
//! the guest's own clock, which starts at no moment that the host can see. The two are tied together where both saw
//! one event: the agent rang, and the runtime heard it, a few microseconds of vsock apart.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A moment of the host's `CLOCK_MONOTONIC`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostMoment(pub u64);

impl HostMoment {
    /// Now.
    #[must_use]
    pub fn now() -> HostMoment {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        HostMoment(seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
    }
}

/// Who saw a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    /// The client and runtime.
    Host,
    /// The monitor.
    Monitor,
    /// The agent in the guest.
    Guest,
}

impl Observer {
    /// As documents have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Observer::Host => "host",
            Observer::Monitor => "monitor",
            Observer::Guest => "guest",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What had happened then.
    pub name: String,
    /// Who says so.
    pub observer: Observer,
    /// Microseconds since the first step.
    pub at_us: u64,
}

/// The steps of one start.
#[derive(Debug, Clone)]
pub struct Timeline {
    start: HostMoment,
    /// Host time less guest time, in microseconds.
    guest_offset_us: Option<u64>,
    steps: Vec<Step>,
}

impl Timeline {
    /// A timeline that counts from `start`.
    #[must_use]
    pub fn from(start: HostMoment) -> Timeline {
        Timeline { start, guest_offset_us: None, steps: Vec::new() }
    }

    /// `name` has happened now.
    pub fn reached(&mut self, name: &str) {
        self.reached_at(name, HostMoment::now());
    }

    /// `name` happened at `moment`.
    pub fn reached_at(&mut self, name: &str, moment: HostMoment) {
        self.push(name, Observer::Host, moment.0);
    }

    /// What the monitor saw.
    pub fn monitor(&mut self, name: &str, at_us: u64) {
        self.push(name, Observer::Monitor, at_us);
    }

    /// Ties the guest's clock to the host's: at `moment` the guest's said `guest_us`. Notes when that clock started,
    /// which is when the guest's kernel did.
    pub fn tie_guest(&mut self, moment: HostMoment, guest_us: u64) {
        let offset_us = moment.0.saturating_sub(guest_us);
        self.guest_offset_us = Some(offset_us);
        self.push("kernel-clock-start", Observer::Guest, offset_us);
    }

    /// What the guest saw, by its own clock. Left out before the clocks are tied.
    pub fn guest(&mut self, name: &str, guest_us: u64) {
        if let Some(offset_us) = self.guest_offset_us {
            self.push(name, Observer::Guest, offset_us.saturating_add(guest_us));
        }
    }

    fn push(&mut self, name: &str, observer: Observer, at_us: u64) {
        self.steps.push(Step { name: name.to_owned(), observer, at_us: at_us.saturating_sub(self.start.0) });
    }

    /// The moment that steps are counted from.
    #[must_use]
    pub fn start(&self) -> HostMoment {
        self.start
    }

    /// The steps in the order in which they happened.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        steps.sort_by_key(|step| step.at_us);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_steps_are_placed_by_the_moment_that_both_saw_and_all_come_in_order() {
        let mut timeline = Timeline::from(HostMoment(1000));
        timeline.guest("dropped: the clocks are not tied yet", 1);
        timeline.reached_at("ended", HostMoment(9000));
        timeline.monitor("guest-entered", 2000);
        timeline.tie_guest(HostMoment(5000), 2500);
        timeline.guest("agent-start", 2000);
        let steps: Vec<_> = timeline.steps().into_iter().map(|step| (step.name, step.at_us)).collect();
        let expected =
            [("guest-entered", 1000), ("kernel-clock-start", 1500), ("agent-start", 3500), ("ended", 8000)];
        assert_eq!(steps, expected.map(|(name, at_us)| (name.to_owned(), at_us)));
    }
}
