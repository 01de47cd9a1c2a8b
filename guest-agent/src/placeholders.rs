//! What Docker puts between an image and the changes of a container: the places that something is mounted on, and a
//! few names that programs look for.
//!
//! It is a layer of its own, the uppermost of those that are only read. So the writable layer holds what the container
//! did and nothing else, and `docker diff` and `docker export` show what they show with Docker. It lives in the agent's
//! memory and is the same at each start.

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Step, StepError};
use crate::overlay::copy_attributes;

/// The layer's folder in the agent's root.
pub(crate) const FOLDER: &str = "/placeholders";

/// Folders that take the attributes of the image's; each is there before those in it.
const FOLDERS: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Folders that are under mounts of the agent's.
const COVERED_FOLDERS: [&str; 2] = ["dev/pts", "dev/shm"];
/// Empty files, with Docker's mode. Programs tell by the first that they run in a container.
const FILES: [&str; 4] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts"];
const FILE_MODE: Mode = Mode::from_raw_mode(0o755);
/// Mounted over only if the host gives its content.
const RESOLV_CONF: &str = "etc/resolv.conf";
/// Where programs look for what is mounted.
const MTAB: (&str, &str) = ("/proc/mounts", "etc/mtab");

/// Makes the layer. `layers` are the folders of the image's, from the uppermost.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn lay(layers: &[String], resolv_conf: bool) -> Result<(), StepError> {
    lay_in(FOLDER, layers, resolv_conf)
}

fn lay_in(place: &str, layers: &[String], resolv_conf: bool) -> Result<(), StepError> {
    for folder in FOLDERS.iter().chain(&COVERED_FOLDERS) {
        let path = format!("{place}/{folder}");
        rustix::fs::mkdir(path.as_str(), Mode::from_raw_mode(0o755))
            .step(|| format!("failed to make {path}"))?;
    }
    for file in FILES.into_iter().chain(resolv_conf.then_some(RESOLV_CONF)) {
        make_file(&format!("{place}/{file}"))?;
    }
    let (target, mtab) = MTAB;
    rustix::fs::symlinkat(target, CWD, format!("{place}/{mtab}"))
        .step(|| format!("failed to make {mtab}"))?;
    // Last, since what is made in a folder changes its time.
    for folder in FOLDERS {
        if let Some(layer) = uppermost_with(layers, folder) {
            copy_attributes(&format!("{layer}/{folder}"), &format!("{place}/{folder}"))
                .step(|| format!("failed to give /{folder} the image's attributes"))?;
        }
    }
    Ok(())
}

fn make_file(path: &str) -> Result<(), StepError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, FILE_MODE).map(drop).step(|| format!("failed to make {path}"))
}

/// The layer that decides what a folder is like; none if the image has no folder there, as when a layer removes it.
fn uppermost_with<'a>(layers: &'a [String], folder: &str) -> Option<&'a String> {
    for layer in layers {
        match rustix::fs::lstat(format!("{layer}/{folder}")) {
            Ok(found) => {
                return (FileType::from_raw_mode(found.st_mode) == FileType::Directory).then_some(layer);
            }
            Err(Errno::NOENT) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn folders_are_like_those_of_the_uppermost_layer_that_has_them() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let folder = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let layers = [folder("top"), folder("middle"), folder("bottom")];
        for (layer, name, mode) in
            [(1, "etc", 0o700), (2, "etc", 0o711), (2, "dev", 0o500), (2, "sys", 0o511)]
        {
            let path = format!("{}/{name}", layers[layer]);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(&layers[0]).unwrap();
        symlink("/etc", format!("{}/dev", layers[0])).unwrap();
        let laid = folder("laid");
        fs::create_dir(&laid).unwrap();
        lay_in(&laid, &layers, true).unwrap();
        let mode = |name: &str| fs::symlink_metadata(format!("{laid}/{name}")).unwrap().mode() & 0o7777;
        assert_eq!((mode("etc"), mode("dev"), mode("sys"), mode("proc")), (0o700, 0o755, 0o511, 0o755));
        let image = fs::metadata(format!("{}/etc", layers[1])).unwrap();
        assert_eq!(fs::metadata(format!("{laid}/etc")).unwrap().mtime_nsec(), image.mtime_nsec());
        assert_eq!(mode("etc/hosts"), 0o755);
        assert_eq!(fs::read_link(format!("{laid}/etc/mtab")).unwrap().to_str(), Some("/proc/mounts"));
    }
}
