//! Mounting, and making what is mounted on.
//!
//! Paths here are resolved by the kernel from the root of the calling process. Whoever mounts in a container calls
//! these after its root has become the process's root: no link in an image leads out of it then.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, mount_bind, mount_remount, move_mount};

use crate::error::{Step, StepError};

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Mounts a new file system; `kind` names it in mount tables too.
///
/// # Errors
///
/// As of mount(2), naming the target.
pub(crate) fn mount_new(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), StepError> {
    mount_named(kind, kind, target, flags, options)
}

/// As [`mount_new`], with a device or name of its own.
///
/// # Errors
///
/// As of mount(2), naming the target.
pub(crate) fn mount_named(
    source: &str,
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), StepError> {
    let failed = || format!("failed to mount {kind} on {target}");
    let options = CString::new(options).map_err(io::Error::other).step(failed)?;
    let options: Option<&CStr> = if options.is_empty() { None } else { Some(&options) };
    rustix::mount::mount(source, target, kind, flags, options).step(failed)
}

/// Makes a folder with its parents, each of mode 0755, whatever links lead there.
///
/// # Errors
///
/// `NotADirectory` if a file is in the way, and as of mkdir(2).
pub(crate) fn make_folders(path: &Path) -> io::Result<()> {
    match rustix::fs::stat(path) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => return Ok(()),
        Ok(_) => return Err(Errno::NOTDIR.into()),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let path = follow_dangling(path)?;
    if let Some(parent) = path.parent() {
        make_folders(parent)?;
    }
    match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes an empty file with its parents if there is nothing, whatever links lead there; nothing is opened if there
/// is something.
///
/// # Errors
///
/// As of [`make_folders`] and open(2).
pub(crate) fn make_file(path: &Path) -> io::Result<()> {
    match rustix::fs::stat(path) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let path = follow_dangling(path)?;
    if let Some(parent) = path.parent() {
        make_folders(parent)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where a chain of links that ends nowhere leads: the path at which to make something.
fn follow_dangling(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let target = match rustix::fs::readlink(&path, Vec::new()) {
            Ok(target) => target,
            Err(Errno::INVAL | Errno::NOENT) => return Ok(path),
            Err(error) => return Err(error.into()),
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        path = parent.join(std::ffi::OsString::from(target.to_string_lossy().into_owned()));
    }
    Err(Errno::LOOP.into())
}

/// Attaches a mount of a file over the file at `target`, which is made if missing.
///
/// # Errors
///
/// As of [`make_file`] and move_mount(2), naming the target.
pub(crate) fn attach_file(mount: &OwnedFd, target: &str) -> Result<(), StepError> {
    make_file(Path::new(target)).step(|| format!("failed to make {target}"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, "", CWD, target, flags).step(|| format!("failed to mount over {target}"))
}

/// Makes a path read-only by mounting it over itself. Nothing happens if it does not exist.
///
/// # Errors
///
/// As of mount(2), naming the path.
pub(crate) fn make_read_only(path: &str, flags: MountFlags) -> Result<(), StepError> {
    match mount_bind(path, path) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(StepError::new(format!("failed to protect {path}"), error)),
    }
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | flags, c"")
        .step(|| format!("failed to make {path} read-only"))
}

/// Hides a path: a folder under an empty one, a file under /dev/null. Nothing happens if it does not exist.
///
/// # Errors
///
/// As of mount(2), naming the path.
pub(crate) fn mask(path: &str) -> Result<(), StepError> {
    match mount_bind("/dev/null", path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR) => mount_new("tmpfs", path, MountFlags::RDONLY, "size=0"),
        Err(error) => Err(StepError::new(format!("failed to mask {path}"), error)),
    }
}

/// Options as of mount(8), told apart: flags of the mount, and what is left for the file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// Flags of mount(2).
    pub(crate) flags: MountFlags,
    /// Comma separated.
    pub(crate) data: String,
}

/// Reads options on top of default flags; a later one undoes an earlier one.
pub(crate) fn parse_options(defaults: MountFlags, options: &str) -> MountOptions {
    let mut flags = defaults;
    let mut data = Vec::new();
    for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match flag_of(option) {
            Some((flag, true)) => flags |= flag,
            Some((flag, false)) => flags &= !flag,
            // Propagation has nobody to reach: the machine holds this one container.
            None if matches!(option, "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared") => {}
            None if matches!(option, "defaults" | "rw") => flags &= !MountFlags::RDONLY,
            None => data.push(option),
        }
    }
    MountOptions { flags, data: data.join(",") }
}

/// The flag of an option, and whether the option sets it.
fn flag_of(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "suid" => (MountFlags::NOSUID, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "dev" => (MountFlags::NODEV, false),
        "nodev" => (MountFlags::NODEV, true),
        "exec" => (MountFlags::NOEXEC, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "atime" => (MountFlags::NOATIME, false),
        "noatime" => (MountFlags::NOATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        _ => return None,
    })
}

/// Whether a path is absolute and climbs nowhere.
pub(crate) fn is_plain_absolute(path: &str) -> bool {
    let mut components = Path::new(path).components();
    components.next() == Some(Component::RootDir) && components.all(|c| matches!(c, Component::Normal(_)))
}

/// The mode of what is at a path, without its type.
pub(crate) fn mode_of(path: &str) -> Option<Mode> {
    let found = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty()).ok()?;
    Some(Mode::from_raw_mode(found.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

    #[test]
    fn options_add_to_and_undo_the_defaults() {
        let parsed = parse_options(DOCKERS, "size=64m,exec,mode=1777,ro,rprivate");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
        assert_eq!(parsed, MountOptions { flags, data: "size=64m,mode=1777".to_owned() });
        assert_eq!(parse_options(DOCKERS, "").flags, DOCKERS);
        assert_eq!(parse_options(DOCKERS, "ro,rw,,").flags, DOCKERS);
    }

    #[test]
    fn only_absolute_paths_that_do_not_climb_are_plain() {
        assert!(is_plain_absolute("/a/b") && is_plain_absolute("/"));
        assert!(!is_plain_absolute("a") && !is_plain_absolute("/a/../b") && !is_plain_absolute(""));
    }

    #[test]
    fn a_file_is_made_where_a_dangling_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("resolv.conf");
        std::os::unix::fs::symlink("run/deep/stub.conf", &link).unwrap();
        make_file(&link).unwrap();
        assert!(folder.path().join("run/deep/stub.conf").is_file());
        make_file(&link).unwrap();
    }

    #[test]
    fn links_that_climb_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../run/stub.conf", folder.path().join("etc/resolv.conf")).unwrap();
        make_file(&folder.path().join("etc/resolv.conf")).unwrap();
        assert!(folder.path().join("run/stub.conf").is_file());
    }

    #[test]
    fn a_loop_of_links_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::os::unix::fs::symlink(&one, &two).unwrap();
        std::os::unix::fs::symlink(&two, &one).unwrap();
        assert!(make_file(&one).is_err() && make_folders(&two).is_err());
    }

    #[test]
    fn a_file_in_the_way_of_a_folder_is_not_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let refused = make_folders(&path).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR), "{}", path.display());
        }
        make_folders(&folder.path().join("a/b/c")).unwrap();
        assert!(folder.path().join("a/b/c").is_dir());
    }
}
