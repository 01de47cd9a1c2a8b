//! Kills at random, under load: of the daemon, of machines, of clients; and nothing that was acknowledged may be lost.
//!
//! Each worker leads containers of its own through their lives and keeps a model of what it was told. Where an answer
//! did not arrive, either outcome is right until the worker has looked. A killer picks its victims meanwhile. In the end
//! everything is removed, and then nothing may be left: no process, no folder, no descriptor.
//!
//! `CAPSID_SOAK_SEED` repeats a run's choices (not its timing), `CAPSID_SOAK_SECONDS` and `CAPSID_SOAK_KILLS` end it,
//! whichever comes first. Conformance tests of the daemon say what each of these requests means; this is about moments.

mod crowd;
mod dice;
mod killer;
mod left;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capsid_tests::Daemon;

use dice::Dice;
use killer::{Killed, Killer};
use worker::Worker;

/// Workers side by side. The machines that run this have two processors.
const WORKERS: u64 = 3;
/// How long a run lasts when nothing else is said: the part of it in the whole suite.
const DEFAULT_SECONDS: u64 = 120;
/// How long the whole may take to come to its end after that.
const END_PATIENCE: Duration = Duration::from_secs(300);

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let seed = number("CAPSID_SOAK_SEED", u64::try_from(now).expect("a moment of this age"));
    let lasts = Duration::from_secs(number("CAPSID_SOAK_SECONDS", DEFAULT_SECONDS));
    let most = number("CAPSID_SOAK_KILLS", u64::MAX);
    println!("soak: CAPSID_SOAK_SEED={seed}");
    let daemon = Daemon::start().await;
    let (folder, socket) = (daemon.folder().to_owned(), daemon.socket());
    let before = left::descriptors(daemon.pid());
    let (stop, killed) = (Arc::new(AtomicBool::new(false)), Arc::new(Killed::default()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let worker =
                Worker::new(number, Dice::new(seed ^ (number + 1)), socket.clone(), Arc::clone(&killed));
            tokio::spawn(worker.run(Arc::clone(&stop)))
        })
        .collect();
    let killer = Killer::new(daemon, Dice::new(seed), Arc::clone(&killed));
    let mut daemon = killer.run(lasts, most).await;
    stop.store(true, Ordering::Relaxed);
    let mut lives = 0;
    for worker in workers {
        let ended = tokio::time::timeout(END_PATIENCE, worker).await.expect("a worker that ends");
        lives += ended.unwrap_or_else(|error| panic!("CAPSID_SOAK_SEED={seed}: {error}"));
    }
    println!("soak: {} during {lives} containers' lives", killed.tally());
    assert!(lives > 0, "CAPSID_SOAK_SEED={seed}: no container came to its end");
    left::assert_nothing(&mut daemon, &folder, before).await;
}
