//! Who kills daemon and machines. Clients end by the workers' own hands, see [`crate::worker`].

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use capsid_tests::Daemon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dice::Dice;

/// Between two kills, in milliseconds: at least, and how much longer at most.
const PAUSE_MS: (u64, u64) = (300, 3000);

/// What was killed so far.
#[derive(Debug, Default)]
pub(crate) struct Killed {
    daemons: AtomicU64,
    machines: AtomicU64,
    clients: AtomicU64,
    /// Monitors that were killed: their containers may have ended without having been asked to.
    monitors: Mutex<HashSet<i32>>,
}

impl Killed {
    pub(crate) fn client(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a machine was killed so far, whosever it was.
    pub(crate) fn machines(&self) -> u64 {
        self.machines.load(Ordering::SeqCst)
    }

    pub(crate) fn holds(&self, monitor: i32) -> bool {
        self.monitors.lock().expect("nobody panics with it").contains(&monitor)
    }

    fn total(&self) -> u64 {
        let all = [&self.daemons, &self.machines, &self.clients];
        all.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn tally(&self) -> String {
        let mut text = format!("{} kills", self.total());
        for (name, count) in
            [("daemon", &self.daemons), ("machine", &self.machines), ("client", &self.clients)]
        {
            let _ = write!(text, ", {} of a {name}", count.load(Ordering::Relaxed));
        }
        text
    }
}

pub(crate) struct Killer {
    daemon: Daemon,
    dice: Dice,
    killed: Arc<Killed>,
}

impl Killer {
    pub(crate) fn new(daemon: Daemon, dice: Dice, killed: Arc<Killed>) -> Killer {
        Killer { daemon, dice, killed }
    }

    /// Kills until the time is over or enough were killed; the daemon lives in the end.
    pub(crate) async fn run(mut self, lasts: Duration, most: u64) -> Daemon {
        let end = Instant::now() + lasts;
        while Instant::now() < end && self.killed.total() < most {
            let pause = PAUSE_MS.0 + self.dice.below(PAUSE_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.dice.chance(50) {
                self.kill_daemon().await;
            } else {
                self.kill_machine();
            }
        }
        self.daemon
    }

    async fn kill_daemon(&mut self) {
        self.daemon.kill();
        self.killed.daemons.fetch_add(1, Ordering::Relaxed);
        if self.dice.chance(30) {
            tokio::time::sleep(Duration::from_millis(self.dice.below(1000))).await;
        }
        tokio::task::block_in_place(|| self.daemon.restart());
    }

    fn kill_machine(&mut self) {
        let monitors = self.daemon.monitors();
        if monitors.is_empty() {
            return;
        }
        let index = self.dice.below(monitors.len() as u64);
        let Some(&monitor) = usize::try_from(index).ok().and_then(|index| monitors.get(index)) else {
            return;
        };
        // Written down first: whoever sees the container's end looks here for its reason.
        self.killed.monitors.lock().expect("nobody panics with it").insert(monitor);
        self.killed.machines.fetch_add(1, Ordering::SeqCst);
        let _ = kill(Pid::from_raw(monitor), Signal::SIGKILL);
    }
}
