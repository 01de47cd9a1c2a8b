//! The container's control group: limits, and what the kernel did because of them.
//!
//! The agent itself stays in the root group, out of every limit.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use capsid_protocol::{Limit, LimitChanges, Limits};
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Step, StepError};

/// Where the agent has the hierarchy mounted.
pub(crate) const MOUNT: &str = "/cgroup";
/// Controllers that the container's group gets when the kernel has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Of each 100 ms: the period that the protocol's quota counts in.
const CPU_PERIOD_US: u32 = 100_000;

/// The longest of the group's files that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The container's group.
#[derive(Debug)]
pub(crate) struct ContainerGroup {
    folder: OwnedFd,
    memory_events: Option<OwnedFd>,
}

impl ContainerGroup {
    /// Makes the group with its limits. Once in a machine's life.
    ///
    /// # Errors
    ///
    /// The first file that could not be written.
    pub(crate) fn create(limits: &Limits) -> Result<Self, StepError> {
        let available = std::fs::read_to_string(format!("{MOUNT}/cgroup.controllers"))
            .step(|| "failed to read the kernel's controllers".to_owned())?;
        let wanted: Vec<String> = available
            .split_whitespace()
            .filter(|name| CONTROLLERS.contains(name))
            .map(|name| format!("+{name}"))
            .collect();
        write(&format!("{MOUNT}/cgroup.subtree_control"), &wanted.join(" "))?;
        let path = format!("{MOUNT}/container");
        rustix::fs::mkdir(path.as_str(), Mode::from_raw_mode(0o755))
            .step(|| "failed to make the container's control group".to_owned())?;
        write_limits(&path, limits)?;
        let folder = rustix::fs::open(
            path.as_str(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step(|| "failed to open the container's control group".to_owned())?;
        let memory_events =
            rustix::fs::openat(&folder, "memory.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .ok();
        Ok(Self { folder, memory_events })
    }

    /// The group's folder, for `CLONE_INTO_CGROUP`.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// Whether the kernel has ever killed a process of the container for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(events) = &self.memory_events else { return false };
        let mut text = [0; 512];
        let length = rustix::io::pread(events, &mut text, 0).unwrap_or(0);
        oom_kills(&String::from_utf8_lossy(&text[..length])) > 0
    }
}

impl ContainerGroup {
    /// Changes the limits that are named.
    ///
    /// # Errors
    ///
    /// The first file that could not be written; those before it are.
    pub(crate) fn change_limits(&self, changes: &LimitChanges) -> Result<(), StepError> {
        let text = |limit: Limit| match limit {
            Limit::None => "max".to_owned(),
            Limit::Most(number) => number.to_string(),
        };
        if let Some(limit) = changes.memory_bytes {
            self.write("memory.max", &text(limit))?;
        }
        if let Some(limit) = changes.cpu_quota_us {
            self.write("cpu.max", &format!("{} {CPU_PERIOD_US}", text(limit)))?;
        }
        if let Some(limit) = changes.pids {
            self.write("pids.max", &text(limit))?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), StepError> {
        let written = rustix::fs::openat(&self.folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, text.as_bytes()));
        written.map(drop).step(|| format!("failed to write {text} to {name}"))
    }

    /// One of the group's files. What the kernel does not have is empty.
    pub(crate) fn read(&self, name: &str) -> String {
        rustix::fs::openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .ok()
            .and_then(|file| io::read_to_string(file.take(MAX_FILE_BYTES)).ok())
            .unwrap_or_default()
    }
}

fn write_limits(path: &str, limits: &Limits) -> Result<(), StepError> {
    if let Some(bytes) = limits.memory_bytes {
        write(&format!("{path}/memory.max"), &bytes.to_string())?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        write(&format!("{path}/cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
    }
    if let Some(pids) = limits.pids {
        write(&format!("{path}/pids.max"), &pids.to_string())?;
    }
    Ok(())
}

fn write(path: &str, text: &str) -> Result<(), StepError> {
    write_existing(path, text).step(|| format!("failed to write {text} to {path}"))
}

/// Writes without creating: these are files of the kernel, which are there or not.
pub(crate) fn write_existing(path: &str, text: &str) -> io::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// The count of `oom_kill` in the text of memory.events.
fn oom_kills(events: &str) -> u64 {
    let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_count_and_not_groups_or_attempts() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 0\noom_group_kill 4\n"), 0);
        assert_eq!(oom_kills("oom 3\noom_kill 2\n"), 2);
        assert_eq!(oom_kills(""), 0);
    }
}
