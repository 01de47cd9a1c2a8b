//! Figures of a daemon's work, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the classes that starts are counted in, in milliseconds. Hardware starts a container in a tenth of a
/// second, emulation in some seconds.
pub const START_BOUNDS_MS: [u64; 9] = [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// How long starts took.
#[derive(Debug, Default)]
pub struct StartTimes {
    /// One for each bound, and one for what is above all.
    classes: [AtomicU64; START_BOUNDS_MS.len() + 1],
    total_us: AtomicU64,
    failures: AtomicU64,
}

/// What [`StartTimes`] are at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartTally {
    /// How many starts took at most as long as each of [`START_BOUNDS_MS`].
    pub within: [u64; START_BOUNDS_MS.len()],
    /// All that succeeded.
    pub count: u64,
    /// How long they took together, in microseconds.
    pub total_us: u64,
    /// Those that failed.
    pub failures: u64,
}

impl StartTimes {
    pub(crate) fn succeeded(&self, after: Duration) {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let class = START_BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(START_BOUNDS_MS.len());
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.total_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures now.
    #[must_use]
    pub fn tally(&self) -> StartTally {
        let counts = self.classes.each_ref().map(|class| class.load(Ordering::Relaxed));
        let mut within = [0; START_BOUNDS_MS.len()];
        let mut sum = 0;
        for (within, count) in within.iter_mut().zip(counts) {
            sum += count;
            *within = sum;
        }
        StartTally {
            within,
            count: counts.iter().sum(),
            total_us: self.total_us.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_add_up() {
        let times = StartTimes::default();
        for ms in [10, 50, 51, 60_000] {
            times.succeeded(Duration::from_millis(ms));
        }
        times.failed();
        let tally = times.tally();
        assert_eq!((tally.within[0], tally.within[1], tally.within[8]), (2, 3, 3));
        assert_eq!((tally.count, tally.total_us, tally.failures), (4, 60_111_000, 1));
    }
}
