//! What may not be left when everything was removed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use capsid_tests::{Daemon, processes_in};

/// How long what ends by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors that a daemon may have more of than when it had just started: its pools are filled by work.
const SPARE_DESCRIPTORS: usize = 24;

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Processes that work in the folder, but for the daemon.
fn processes(folder: &Path, daemon: u32) -> Vec<String> {
    let others = processes_in(folder).into_iter().filter(|pid| u32::try_from(*pid) != Ok(daemon));
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    others.map(|pid| format!("{pid} {}", name(pid).trim())).collect()
}

/// Names in a folder; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Looks until nothing is left.
pub(crate) async fn assert_nothing(daemon: &mut Daemon, folder: &Path, before: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = processes(folder, daemon.pid());
        left.extend(names(&folder.join("state/containers")));
        for run in names(&folder.join("run")) {
            let sockets = folder.join("run").join(&run);
            left.extend(names(&sockets).into_iter().map(|name| format!("run/{run}/{name}")));
        }
        left.extend(names(&folder.join("state/staging")));
        let open = descriptors(daemon.pid());
        if open > before + SPARE_DESCRIPTORS {
            left.push(format!("{open} descriptors, where there were {before}"));
        }
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left: {left:#?}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
