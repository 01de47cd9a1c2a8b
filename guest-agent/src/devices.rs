//! The container's /dev.
//!
//! Runs in the container's namespaces, its root being the root of the process.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat, symlink};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::error::{Step, StepError};
use crate::mounts::{make_folders, mount_named};

/// Character devices that every container has, all of mode 0666 (Linux's `admin-guide/devices.txt`).
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has.
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Mounts /dev and fills it.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn set_up(shm_bytes: u64) -> Result<(), StepError> {
    make_folders(Path::new("/dev")).step(|| "failed to make /dev".to_owned())?;
    mount_named(
        "tmpfs",
        "tmpfs",
        "/dev",
        MountFlags::NOSUID | MountFlags::STRICTATIME,
        "mode=755,size=65536k",
    )?;
    for (path, major, minor) in DEVICES {
        make_node(path, FileType::CharacterDevice, 0o666, rustix::fs::makedev(major, minor))?;
    }
    for (target, path) in LINKS {
        symlink(target, path).step(|| format!("failed to make {path}"))?;
    }
    for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)).step(|| format!("failed to make {folder}"))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    // Group 5 is `tty` in every distribution; every mount of devpts is an instance of its own.
    mount_named("devpts", "devpts", "/dev/pts", flags, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    let flags = flags | MountFlags::NODEV;
    mount_named("shm", "tmpfs", "/dev/shm", flags, &format!("mode=1777,size={shm_bytes}"))?;
    mount_named("mqueue", "mqueue", "/dev/mqueue", flags, "")
}

fn make_node(path: &str, kind: FileType, mode: u32, device: u64) -> Result<(), StepError> {
    match mknodat(CWD, path, kind, Mode::from_raw_mode(mode), device) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(StepError::new(format!("failed to make {path}"), error)),
    }
}

/// A device node, by where it belongs.
#[derive(Debug)]
pub(crate) struct Node {
    path: PathBuf,
    kind: FileType,
    mode: u32,
    device: u64,
}

/// Deeper than devtmpfs ever is.
const MAX_DEPTH: u32 = 8;

/// Every device of the machine, as devtmpfs at `folder` has them.
pub(crate) fn of_machine(folder: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    collect(folder, Path::new("/dev"), 0, &mut nodes);
    nodes
}

fn collect(from: &Path, to: &Path, depth: u32, nodes: &mut Vec<Node>) {
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let path = to.join(entry.file_name());
        let Ok(found) = rustix::fs::lstat(entry.path()) else { continue };
        match FileType::from_raw_mode(found.st_mode) {
            // The console is the container's terminal or nothing, never the machine's; ptmx is the container's own.
            FileType::CharacterDevice
                if ["/dev/console", "/dev/ptmx"].iter().any(|&own| path == Path::new(own)) => {}
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                nodes.push(Node { path, kind, mode: found.st_mode & 0o7777, device: found.st_rdev });
            }
            FileType::Directory if depth < MAX_DEPTH => collect(&entry.path(), &path, depth + 1, nodes),
            _ => {}
        }
    }
}

/// Makes the nodes that are not there.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn add_all(nodes: &[Node]) -> Result<(), StepError> {
    for node in nodes {
        let failed = || format!("failed to make {}", node.path.display());
        if let Some(parent) = node.path.parent() {
            make_folders(parent).step(failed)?;
        }
        make_node(&node.path.to_string_lossy(), node.kind, node.mode, node.device)?;
    }
    Ok(())
}
