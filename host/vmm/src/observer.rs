//! What a machine leaves for those who watch it: the newest console output, and when each step of the boot was
//! reached. Both engines write here, the supervisor reads.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::control::VmmMilestone;

/// The names of the steps, as [`VmmMilestone::name`] lists them.
pub mod milestone {
    /// The monitor's first instruction of its own.
    pub const PROCESS_START: &str = "process-start";
    /// Memory, kernel and devices stand.
    pub const MACHINE_BUILT: &str = "machine-built";
    /// The guest's first instruction is about to run.
    pub const GUEST_ENTERED: &str = "guest-entered";
}

/// What the kernel prints first when it panics (`kernel/panic.c`).
const PANIC_MARK: &[u8] = b"Kernel panic - not syncing";

/// Handed to the engine, which writes; clones share what they hold.
#[derive(Debug, Clone)]
pub struct Observer {
    console: Arc<Mutex<Ring>>,
    milestones: Arc<Mutex<Vec<VmmMilestone>>>,
}

#[derive(Debug)]
struct Ring {
    /// Grows with what is written: a guest that prints nothing costs nothing.
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Observer {
    /// Keeps the newest `console_bytes` of the console's output.
    #[must_use]
    pub fn new(console_bytes: u32) -> Observer {
        let limit = usize::try_from(console_bytes).unwrap_or(usize::MAX);
        Observer {
            console: Arc::new(Mutex::new(Ring { bytes: VecDeque::new(), limit })),
            milestones: Arc::new(Mutex::new(Vec::with_capacity(3))),
        }
    }

    /// Records that the boot reached a step ([`milestone`]), now.
    pub fn reached(&self, name: &str) {
        self.reached_at(name, now_us());
    }

    /// As [`reached`](Self::reached), at a moment that [`now_us`] gave.
    pub fn reached_at(&self, name: &str, at_us: u64) {
        lock(&self.milestones).push(VmmMilestone { name: name.to_owned(), at_us });
    }

    /// The steps reached until now.
    #[must_use]
    pub fn milestones(&self) -> Vec<VmmMilestone> {
        lock(&self.milestones).clone()
    }

    /// Adds to the console's output; the oldest goes when the limit is reached.
    pub fn append_console(&self, output: &[u8]) {
        let mut ring = lock(&self.console);
        let output = &output[output.len().saturating_sub(ring.limit)..];
        let surplus = (ring.bytes.len() + output.len()).saturating_sub(ring.limit);
        ring.bytes.drain(..surplus);
        ring.bytes.extend(output);
    }

    /// The newest console output, oldest byte first; what is not UTF-8 is replaced.
    #[must_use]
    pub fn console_text(&self) -> String {
        let mut ring = lock(&self.console);
        String::from_utf8_lossy(ring.bytes.make_contiguous()).into_owned()
    }

    /// Whether the console shows that the guest's kernel panicked: what tells a panic from a reset.
    #[must_use]
    pub fn shows_panic(&self) -> bool {
        let mut ring = lock(&self.console);
        ring.bytes.make_contiguous().windows(PANIC_MARK.len()).any(|window| window == PANIC_MARK)
    }
}

/// So that a serial port can write to it.
impl io::Write for Observer {
    fn write(&mut self, output: &[u8]) -> io::Result<usize> {
        self.append_console(output);
        Ok(output.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Microseconds of the host's `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// A panic elsewhere leaves these plain values usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Observer;

    #[test]
    fn the_newest_output_is_kept() {
        let observer = Observer::new(8);
        observer.append_console(b"abcdef");
        observer.append_console(b"ghij");
        assert_eq!(observer.console_text(), "cdefghij");
        observer.append_console(b"0123456789");
        assert_eq!(observer.console_text(), "23456789");
    }

    #[test]
    fn no_console_is_kept_when_none_is_wanted() {
        let observer = Observer::new(0);
        observer.append_console(b"abc");
        assert_eq!(observer.console_text(), "");
    }

    #[test]
    fn a_panic_is_seen() {
        let observer = Observer::new(100);
        observer.append_console(b"[    1.0] Kernel pa");
        assert!(!observer.shows_panic());
        observer.append_console(b"nic - not syncing: Attempted to kill init!");
        assert!(observer.shows_panic());
    }
}
