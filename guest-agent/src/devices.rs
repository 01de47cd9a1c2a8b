//! The container's /dev.
//!
//! Runs in the container's namespaces, its root being the root of the process.

use std::path::Path;

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
    mount_named("tmpfs", "tmpfs", "/dev", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k")?;
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

/// Gives a privileged container every device of the machine, as they are in `machine`, a folder with devtmpfs.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn add_all(machine: &Path) -> Result<(), StepError> {
    add_folder(machine, Path::new("/dev"), 0)
}

/// Deeper than devtmpfs ever is.
const MAX_DEPTH: u32 = 8;

fn add_folder(from: &Path, to: &Path, depth: u32) -> Result<(), StepError> {
    let entries = std::fs::read_dir(from).step(|| "failed to list the machine's devices".to_owned())?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        let Ok(found) = rustix::fs::lstat(&entry.path()) else { continue };
        match FileType::from_raw_mode(found.st_mode) {
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                // /dev/console is the container's terminal or nothing, never the machine's.
                if target != Path::new("/dev/console") {
                    make_node(&target.to_string_lossy(), kind, found.st_mode & 0o7777, found.st_rdev)?;
                }
            }
            FileType::Directory if depth < MAX_DEPTH => {
                make_folders(&target).step(|| format!("failed to make {}", target.display()))?;
                add_folder(&entry.path(), &target, depth + 1)?;
            }
            _ => {}
        }
    }
    Ok(())
}
