//! How fast the processor's time-stamp counter runs, which the guest has no way to find out.
//!
//! Translated guest code reads the host's counter. The microvm machine has nothing to calibrate it against, so a
//! kernel that is not told falls back to counting timer interrupts: a clock that stands still for 4 ms at a time and
//! falls behind whenever the host is busy.

use std::arch::x86_64::_rdtsc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the counter is watched: with readings good to 50 ns, the error is below 20 parts in a million, a tenth
/// of what clock discipline corrects.
const WINDOW: Duration = Duration::from_micros(2500);

/// A reading of counter and clock, from which the rate follows later.
pub(super) struct Reading {
    counter: u64,
    clock_ns: u64,
}

impl Reading {
    /// Reads both as close together as possible: of a few attempts, the one in between which least time went by.
    pub(super) fn take() -> Reading {
        let attempts = (0..8).map(|_| {
            let before = counter();
            let clock_ns = monotonic_ns();
            let after = counter();
            let gap = after.wrapping_sub(before);
            (gap, Reading { counter: before.wrapping_add(gap / 2), clock_ns })
        });
        attempts
            .min_by_key(|(gap, _)| *gap)
            .map_or(Reading { counter: 0, clock_ns: 0 }, |(_, reading)| reading)
    }

    /// The counter's rate since this reading, in kHz; waits for what is missing of the window. None if the counter
    /// does not count.
    pub(super) fn khz(&self) -> Option<u64> {
        let passed = Duration::from_nanos(monotonic_ns().saturating_sub(self.clock_ns));
        std::thread::sleep(WINDOW.saturating_sub(passed));
        let now = Reading::take();
        let counted = u128::from(now.counter.checked_sub(self.counter)?);
        let passed_ns = u128::from(now.clock_ns.checked_sub(self.clock_ns)?);
        let khz = (counted * 1_000_000).checked_div(passed_ns)?;
        u64::try_from(khz).ok().filter(|&khz| khz > 0)
    }
}

#[allow(unsafe_code)]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { _rdtsc() }
}

/// The clock that is not adjusted in steps; its frequency is adjusted as little as it matters here.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (Reading::take().khz(), Reading::take().khz());
        let (first, second) = (first.expect("it counts"), second.expect("it counts"));
        assert!(first.abs_diff(second) * 2000 < first, "{first} and {second} kHz");
        assert!((100_000..10_000_000).contains(&first), "{first} kHz");
    }
}
