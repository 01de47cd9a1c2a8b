//! From the kernel's start of the agent to a machine that can take a request.
//!
//! The doorbell rings before anything is mounted: vsock needs no file system, and the host's answer travels while
//! the groundwork is laid.

use std::io;
use std::os::fd::OwnedFd;

use capsid_protocol::{AGENT_PORT, Milestone, READY_PORT, Ready, RequestId, SPOKEN, write_frame};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_move};

use crate::error::{Step, StepError};
use crate::mounts::mount_new;
use crate::{cgroup, network, overlay, placeholders, sys};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// The kernel's own ceiling (`fs.nr_open`).
const MAX_OPEN_FILES: u64 = 1 << 20;
/// Folder of the initramfs on which the agent's root is mounted.
const BASE: &str = "/base";
/// Where the agent keeps the files that it mounts over the container's.
pub(crate) const FILES: &str = "/files";

/// Microseconds of the guest's clock.
pub(crate) fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or(0))
}

/// Keeps the container from looking into children of the agent that have joined it and are not yet their program
/// (CVE-2016-9962), and gives them the limit of open files that Docker's daemon hands down.
pub(crate) fn harden() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let files = Some(MAX_OPEN_FILES);
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: files, maximum: files },
    );
}

/// Listens, and tells the host so.
///
/// # Errors
///
/// Only if listening fails: a host that does not answer the doorbell may still connect.
pub(crate) fn announce(agent_start_us: u64) -> Result<OwnedFd, StepError> {
    let listener = sys::vsock::listen(AGENT_PORT, BACKLOG)
        .step(|| format!("failed to listen on vsock port {AGENT_PORT}"))?;
    let milestone = |name: &str, at_us| Milestone { name: name.to_owned(), at_us };
    let ready = Ready {
        speaks: SPOKEN,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        milestones: vec![milestone("agent-start", agent_start_us), milestone("listening", now_us())],
    };
    if let Err(error) = ring(&ready) {
        crate::log(&format!("nobody answers on the host's port {READY_PORT}: {error}"));
    }
    Ok(listener)
}

fn ring(ready: &Ready) -> io::Result<()> {
    let mut doorbell = std::fs::File::from(sys::vsock::dial_host(READY_PORT)?);
    write_frame(&mut doorbell, RequestId(0), ready).map_err(io::Error::other)
}

/// Mounts what no request changes, and makes the agent's root one that `pivot_root` can leave (the initramfs
/// itself is not).
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn lay_groundwork() -> Result<(), StepError> {
    make_agent_root()?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, "")?;
    mount_new("proc", "/proc", quiet, "")?;
    // Not read-only: that would hold for every mount of it, also that of a privileged container.
    mount_new("sysfs", "/sys", quiet, "")?;
    hasten_grace_periods();
    mount_new("cgroup2", cgroup::MOUNT, quiet, "")?;
    protect_from_oom_killer();
    network::bring_loopback_up()?;
    network::open_ports_and_ping("/proc");
    Ok(())
}

fn make_agent_root() -> Result<(), StepError> {
    // Holds the few small files below FILES, which a container may write to: hence the limits.
    mount_new("tmpfs", BASE, MountFlags::NOSUID | MountFlags::NODEV, "mode=755,size=1m,nr_inodes=2k")?;
    rustix::process::chdir(BASE).step(|| format!("failed to enter {BASE}"))?;
    let folders =
        ["/dev", "/proc", "/sys", cgroup::MOUNT, overlay::ROOT, overlay::WRITABLE, "/layers", FILES];
    for folder in folders.into_iter().chain([placeholders::FOLDER]) {
        match rustix::fs::mkdir(&folder[1..], Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(StepError::new(format!("failed to make {folder}"), error)),
        }
    }
    mount_move(".", "/").step(|| "failed to move the agent's root into place".to_owned())?;
    rustix::process::chroot(".").step(|| "failed to enter the agent's root".to_owned())
}

/// Mounting, unmounting, and bringing an interface up wait for RCU grace periods, several ticks each: 30 ms for the
/// loopback interface alone. Expedited ones cost interrupts of other processors, of which a machine has few.
fn hasten_grace_periods() {
    let _ = cgroup::write_existing("/sys/kernel/rcu_expedited", "1");
}

/// Without the agent the machine is lost, so whatever the container does, the kernel must choose another.
fn protect_from_oom_killer() {
    if let Err(error) = cgroup::write_existing("/proc/self/oom_score_adj", "-1000") {
        crate::log(&format!("the agent is not protected from the out-of-memory killer: {error}"));
    }
}
