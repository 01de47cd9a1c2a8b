//! The container's first process: made by `PrepareRoot` in namespaces of its own, it mounts what must be mounted
//! from inside, and waits for its program.
//!
//! ```text
//!  agent                                    first process (PID 1 of the container)
//!    │ ── clone3, new namespaces ─────────▶  enters: pivots, mounts, masks
//!    │ ◀─ Response::Done or Failed ────────  or exits
//!    │ ◀─ the tree that clients see ───────
//!    │    … PrepareRoot is answered …        waits
//!    │ ── stdio descriptors, ProcessSpec ─▶  becomes the program (crate::launch)
//! ```
//!
//! A machine that is prepared ahead of its request only has to do the last step.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use capsid_protocol::{
    ErrorCode, PrepareRoot, ProcessSpec, Refusal, RequestId, Response, TmpfsMount, read_frame, write_frame,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, mount_remount, open_tree, unmount};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;

use crate::cgroup::ContainerGroup;
use crate::error::{Step, StepError, chain, refusal};
use crate::mounts::{self, make_folders, make_read_only, mask, mode_of, mount_new, parse_options};
use crate::stdio::ChildStdio;
use crate::sys::process::{Child, Forked};
use crate::{boot, cgroup, descriptors, devices, launch, overlay, root, sys};

/// Number of `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Hidden by Docker (moby, `oci/defaults.go`).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only by Docker (moby, `oci/defaults.go`).
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const KERNEL_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The container, seen from the agent.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its first process.
    pub(crate) child: Child,
    /// To that process, while it waits.
    pub(crate) socket: OwnedFd,
    /// The root of the container's /dev/pts, where terminals are made.
    pub(crate) devpts: OwnedFd,
    /// What clients see of its files: see [`crate::files`].
    pub(crate) seen: OwnedFd,
}

/// Says that the descriptor is that tree.
const SEEN_TAG: u8 = b's';

/// Starts the first process, and returns when it waits.
///
/// # Errors
///
/// The step that failed, here or in there.
pub(crate) fn start(request: &PrepareRoot, group: &ContainerGroup) -> Result<Container, Refusal> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .step(|| "failed to make a socket pair".to_owned())?;
    let namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let forked = sys::process::fork(namespaces, Some(group.folder().as_fd()))
        .step(|| "failed to start the container's first process".to_owned())?;
    let child = match forked {
        Forked::Parent(child) => child,
        Forked::Child => first_process(request, theirs),
    };
    drop(theirs);
    let mut socket = std::fs::File::from(ours);
    match read_frame(&mut socket) {
        Ok((_, Response::Done)) => {}
        Ok((_, Response::Failed(refusal))) => return Err(refusal),
        Ok(_) | Err(_) => return Err(refusal(ErrorCode::Internal, "the container's first process died")),
    }
    let socket = OwnedFd::from(socket);
    let Some((SEEN_TAG, Ok([seen]))) =
        descriptors::receive(&socket).map(|(tag, descriptors)| (tag, <[OwnedFd; 1]>::try_from(descriptors)))
    else {
        return Err(refusal(ErrorCode::Internal, "the container's first process died"));
    };
    let devpts = open_devpts(child.pid)?;
    Ok(Container { child, socket, devpts, seen })
}

/// Nothing of the container runs yet; later, its paths could lead anywhere.
fn open_devpts(pid: i32) -> Result<OwnedFd, Refusal> {
    let failed = || "failed to open the container's /dev/pts".to_owned();
    let path = format!("/proc/{pid}/root/dev/pts");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty()).step(failed)?;
    let kind = rustix::fs::fstatfs(&folder).step(failed)?.f_type;
    if kind.cast_unsigned() == DEVPTS_MAGIC {
        return Ok(folder);
    }
    Err(refusal(ErrorCode::InvalidArgument, "the image's /dev is a link: there is no place for terminals"))
}

/// The program and its stdio, for the process that waits at the other end of `socket`.
///
/// # Errors
///
/// The process is gone.
pub(crate) fn send_program(
    socket: &OwnedFd,
    spec: &ProcessSpec,
    stdio: &ChildStdio,
) -> Result<(), StepError> {
    let failed = || "failed to hand the program to the container's first process".to_owned();
    descriptors::send(socket, stdio.tag(), &stdio.descriptors()).step(failed)?;
    let mut writer = std::fs::File::from(socket.try_clone().step(failed)?);
    write_frame(&mut writer, RequestId(0), spec).map_err(std::io::Error::other).step(failed)
}

fn receive_program(socket: &OwnedFd) -> Option<(ProcessSpec, ChildStdio)> {
    let (tag, descriptors) = descriptors::receive(socket)?;
    let stdio = ChildStdio::from_parts(tag, descriptors)?;
    let mut reader = std::fs::File::from(socket.try_clone().ok()?);
    let (_, spec) = read_frame(&mut reader).ok()?;
    Some((spec, stdio))
}

/// The life of the first process until it becomes the program. Never returns to the agent's code.
fn first_process(request: &PrepareRoot, socket: OwnedFd) -> ! {
    crate::mark_as_child();
    sys::process::close_all_but(&[socket.as_fd()]);
    let outcome = enter(request);
    let answer = match &outcome {
        Ok(_) => Response::Done,
        Err(error) => Response::Failed(refusal(ErrorCode::Internal, chain(error))),
    };
    let told = socket
        .try_clone()
        .is_ok_and(|socket| write_frame(&mut std::fs::File::from(socket), RequestId(0), &answer).is_ok());
    // The container must not have it: its own links and mounts could be gone around by it.
    let handed_over = outcome.is_ok_and(|seen| descriptors::send(&socket, SEEN_TAG, &[seen.as_fd()]).is_ok());
    if !told || !handed_over {
        sys::process::exit_now(launch::FAILED_EXIT_CODE);
    }
    match receive_program(&socket) {
        Some((spec, stdio)) => launch::become_program(&spec, stdio, socket),
        None => sys::process::exit_now(launch::FAILED_EXIT_CODE),
    }
}

/// Makes these namespaces the container's.
///
/// What is needed of the agent's root is taken out of it first. Paths of the container are resolved only when
/// nothing else is left: while the old root is stacked on the new one, `..` in a link of the image leads into it.
///
/// Gives the tree that clients see: the root with what is mounted there for the container's own use, taken before
/// the kernel's interfaces are. The folders of those are there already, in the layer of placeholders.
fn enter(request: &PrepareRoot) -> Result<OwnedFd, StepError> {
    launch::leave_agents_protection();
    // The group of the moment becomes the root of the new namespace.
    sys::process::unshare(UnshareFlags::NEWCGROUP).step(|| "failed to make a cgroup namespace".to_owned())?;
    rustix::system::sethostname(request.hostname.as_bytes())
        .step(|| "failed to set the host name".to_owned())?;
    rustix::process::umask(Mode::empty());
    let files = take_files(request.resolv_conf.is_some())?;
    // Of the container's own namespaces, as far as they have any of their own.
    for (name, value) in &request.sysctls {
        let path = format!("/proc/sys/{}", root::parameter_path(name).unwrap_or_default());
        cgroup::write_existing(&path, value).step(|| format!("failed to set sysctl {name} to {value}"))?;
    }
    let machine = if request.privileged { devices::of_machine(Path::new("/dev")) } else { Vec::new() };
    pivot()?;
    let (among_interfaces, own): (Vec<_>, Vec<_>) =
        request.tmpfs.iter().partition(|tmpfs| is_among_kernel_interfaces(&tmpfs.path));
    for folder in &request.folders {
        make_folders(Path::new(folder)).step(|| format!("failed to make {folder}"))?;
    }
    own.into_iter().try_for_each(mount_tmpfs)?;
    for (name, file) in &files {
        mounts::attach_file(file, &format!("/etc/{name}"))?;
    }
    if request.read_only {
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, c"")
            .step(|| "failed to make the root read-only".to_owned())?;
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let seen = open_tree(CWD, "/", flags).step(|| "failed to take the tree that clients see".to_owned())?;
    mount_kernel_interfaces(request.privileged)?;
    devices::set_up(request.shm_bytes)?;
    devices::add_all(&machine)?;
    among_interfaces.into_iter().try_for_each(mount_tmpfs)?;
    if !request.privileged {
        protect_kernel_interfaces()?;
    }
    Ok(seen)
}

/// Whether a path is at or below where the kernel's interfaces are mounted, which would hide it.
fn is_among_kernel_interfaces(path: &str) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|interface| Path::new(path).starts_with(interface))
}

/// Mounts of the agent's files, attached nowhere yet.
fn take_files(resolv_conf: bool) -> Result<Vec<(&'static str, OwnedFd)>, StepError> {
    let names = ["hostname", "hosts", "resolv.conf"];
    let taken = names[..if resolv_conf { 3 } else { 2 }].iter().map(|&name| {
        let path = format!("{}/{name}", boot::FILES);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path.as_str(), flags).step(|| format!("failed to take {path}"))?;
        Ok((name, tree))
    });
    taken.collect()
}

/// Makes the stacked root the root, and lets go of the agent's.
fn pivot() -> Result<(), StepError> {
    let failed = || "failed to enter the container's root".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let agent_root = rustix::fs::open("/", flags, Mode::empty()).step(failed)?;
    rustix::process::chdir(overlay::ROOT).step(failed)?;
    // The old root is stacked on the new one, so no folder of the image is needed to put it.
    rustix::process::pivot_root(".", ".").step(failed)?;
    rustix::process::fchdir(&agent_root).step(failed)?;
    unmount(".", UnmountFlags::DETACH).step(failed)?;
    rustix::process::chdir("/").step(failed)
}

fn mount_kernel_interfaces(privileged: bool) -> Result<(), StepError> {
    for folder in ["/proc", "/sys"] {
        make_folders(Path::new(folder)).step(|| format!("failed to make {folder}"))?;
    }
    mount_new("proc", "/proc", KERNEL_FLAGS, "")?;
    let flags = if privileged { KERNEL_FLAGS } else { KERNEL_FLAGS | MountFlags::RDONLY };
    mount_new("sysfs", "/sys", flags, "")?;
    mount_new("cgroup2", "/sys/fs/cgroup", flags, "")
}

fn mount_tmpfs(tmpfs: &TmpfsMount) -> Result<(), StepError> {
    let mode = mode_of(&tmpfs.path);
    make_folders(Path::new(&tmpfs.path)).step(|| format!("failed to make {}", tmpfs.path))?;
    let mut options = parse_options(KERNEL_FLAGS, &tmpfs.options);
    if let Some(mode) = mode.filter(|_| !options.data.split(',').any(|option| option.starts_with("mode="))) {
        // As runc does: the image's folder says who may write, unless the user does.
        let separator = if options.data.is_empty() { "" } else { "," };
        options.data = format!("{}{separator}mode={:o}", options.data, mode.as_raw_mode() & 0o7777);
    }
    mount_new("tmpfs", &tmpfs.path, options.flags, &options.data)
}

fn protect_kernel_interfaces() -> Result<(), StepError> {
    for path in MASKED {
        mask(path)?;
    }
    for path in READ_ONLY {
        make_read_only(path, KERNEL_FLAGS)?;
    }
    Ok(())
}
