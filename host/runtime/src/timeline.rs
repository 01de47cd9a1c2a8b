//! When each step of a container's start happened.
//!
//! Host steps are absolute moments of `CLOCK_MONOTONIC`, which the monitor's process shares. Guest steps are told by
//! the guest's own clock, which starts a little after its first instruction; they are placed after the moment at
//! which the monitor entered the guest.

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
    guest_start: Option<HostMoment>,
    steps: Vec<Step>,
}

impl Timeline {
    /// A timeline that counts from `start`.
    #[must_use]
    pub fn from(start: HostMoment) -> Timeline {
        Timeline { start, guest_start: None, steps: Vec::new() }
    }

    /// `name` has happened now.
    pub fn reached(&mut self, name: &str) {
        self.reached_at(name, HostMoment::now());
    }

    /// `name` happened at `moment`.
    pub fn reached_at(&mut self, name: &str, moment: HostMoment) {
        self.push(name, Observer::Host, moment.0);
    }

    /// What the monitor saw; its `guest-entered` is where the guest's own steps are counted from.
    pub fn monitor(&mut self, name: &str, at_us: u64) {
        if name == "guest-entered" {
            self.guest_start = Some(HostMoment(at_us));
        }
        self.push(name, Observer::Monitor, at_us);
    }

    /// What the guest saw, by its own clock. Left out while it is unknown when the guest was entered.
    pub fn guest(&mut self, name: &str, guest_us: u64) {
        if let Some(entered) = self.guest_start {
            self.push(name, Observer::Guest, entered.0.saturating_add(guest_us));
        }
    }

    fn push(&mut self, name: &str, observer: Observer, at_us: u64) {
        self.steps.push(Step { name: name.to_owned(), observer, at_us: at_us.saturating_sub(self.start.0) });
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
    fn guest_steps_are_placed_after_the_guest_was_entered_and_all_come_in_order() {
        let mut timeline = Timeline::from(HostMoment(1000));
        timeline.guest("dropped: not entered yet", 1);
        timeline.reached_at("ended", HostMoment(9000));
        timeline.monitor("guest-entered", 2000);
        timeline.guest("agent-start", 500);
        let steps: Vec<_> = timeline.steps().into_iter().map(|step| (step.name, step.at_us)).collect();
        let expected = [("guest-entered", 1000), ("agent-start", 1500), ("ended", 8000)];
        assert_eq!(steps, expected.map(|(name, at_us)| (name.to_owned(), at_us)));
    }
}
