//! Which processes work in a folder: what a test must leave none of.

use std::fs;
use std::path::Path;

/// Every process but this one that was told of the folder or has something open in it. A monitor is told nothing, and has
/// its writable layer open, also when that was removed.
#[must_use]
pub fn processes_in(folder: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.filter(|pid| *pid != own && works_in(*pid, folder)).collect()
}

fn works_in(pid: i32, folder: &Path) -> bool {
    let needle = folder.as_os_str().as_encoded_bytes();
    let holds = |text: &[u8]| text.windows(needle.len()).any(|window| window == needle);
    let told = ["environ", "cmdline"]
        .iter()
        .any(|name| fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|text| holds(&text)));
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    told || open.into_iter().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|path| holds(path.as_os_str().as_encoded_bytes()))
    })
}
