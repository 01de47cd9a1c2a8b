//! Where processors' threads wait while the machine is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Counts who runs, and lets nobody pass while closed.
#[derive(Debug)]
pub(super) struct Gate {
    /// Read before each entry into the guest, so that a kick that was meant is told from one that was not.
    closed: AtomicBool,
    running: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// Open, with `running` threads on the far side.
    pub(super) fn new(running: usize) -> Gate {
        Gate { closed: AtomicBool::new(false), running: Mutex::new(running), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by a thread that was kicked: waits if the gate is closed.
    pub(super) fn pass(&self) {
        let mut running = self.lock();
        if !self.closed.load(Ordering::SeqCst) {
            return;
        }
        *running -= 1;
        self.changed.notify_all();
        while self.closed.load(Ordering::SeqCst) {
            running = self.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
    }

    /// Called by a thread that will not run the guest again.
    pub(super) fn leave(&self) {
        *self.lock() -= 1;
        self.changed.notify_all();
    }

    /// Nobody passes from now on; who is on the far side has to be kicked.
    pub(super) fn close(&self) {
        let _running = self.lock();
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until nobody is on the far side.
    pub(super) fn wait_until_empty(&self) {
        let mut running = self.lock();
        while *running > 0 {
            running = self.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn open(&self) {
        let _running = self.lock();
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::Gate;

    #[test]
    fn nobody_runs_behind_a_closed_gate() {
        let gate = Arc::new(Gate::new(3));
        let turns = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, turns) = (Arc::clone(&gate), Arc::clone(&turns));
                thread::spawn(move || {
                    for _ in 0..20_000 {
                        turns.fetch_add(1, Ordering::SeqCst);
                        gate.pass();
                    }
                    gate.leave();
                })
            })
            .collect();
        for _ in 0..50 {
            gate.close();
            gate.wait_until_empty();
            let before = turns.load(Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(turns.load(Ordering::SeqCst), before);
            gate.open();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        gate.close();
        gate.wait_until_empty();
    }
}
