//! A folder for one machine's sockets, short enough for a socket's path and gone with its owner.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use crate::container::ContainerId;

/// Names the folder of sockets, before every other place.
pub const RUNTIME_DIR_VARIABLE: &str = "CAPSID_RUNTIME_DIR";

/// Why the folder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// The file system refused.
    #[error("failed to make the folder {}", .path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else could reach into it.
    #[error("{} belongs to another user, or is open to others: name another folder in {RUNTIME_DIR_VARIABLE}", .0.display())]
    NotOurs(PathBuf),
}

/// SHIM
#[derive(Debug)]
pub struct RunFolders;
impl RunFolders {
    /// SHIM
    pub fn open(_state: &Path) -> Result<RunFolders, RunFolderError> {
        Ok(RunFolders)
    }
    /// SHIM
    pub async fn clear_orphans(&self, _keep: &std::collections::HashSet<ContainerId>) {}
}

/// The folder; removed when it is dropped. The folders of killed processes are removed by the next one that starts.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    // Locked while the owner lives.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of one container's machine, private to this user.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or its parent is not safely ours.
    pub fn create(id: &ContainerId) -> Result<RunFolder, RunFolderError> {
        RunFolder::create_below(&parent(), id)
    }

    fn create_below(parent: &Path, id: &ContainerId) -> Result<RunFolder, RunFolderError> {
        let make = |path: &Path, error| RunFolderError::Make { path: path.to_owned(), source: error };
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| make(parent, error))?;
        let metadata = fs::symlink_metadata(parent).map_err(|error| make(parent, error))?;
        if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(RunFolderError::NotOurs(parent.to_owned()));
        }
        sweep(parent);
        let path = parent.join(id.short());
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| make(&path, error))?;
        let lock = File::open(&path).map_err(|error| make(&path, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| make(&path, error.into()))?;
        Ok(RunFolder { path, _lock: lock })
    }

    /// A file of that name in the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // What is left is removed by the next sweep.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn parent() -> PathBuf {
    let uid = geteuid().as_raw();
    if let Some(folder) = std::env::var_os(RUNTIME_DIR_VARIABLE) {
        return PathBuf::from(folder);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_dir()) {
        Some(folder) => PathBuf::from(folder).join("capsid"),
        None if uid == 0 => PathBuf::from("/run/capsid"),
        None => PathBuf::from(format!("/tmp/capsid-{uid}")),
    }
}

/// Removes the folders that nobody holds.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(io::Result::ok).map(|entry| entry.path()) {
        let Ok(folder) = File::open(&path) else { continue };
        // A folder that was made this instant may not be locked yet.
        let young = folder
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age.as_secs() < 10));
        if !young && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_private_and_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = RunFolder::create_below(parent.path(), &ContainerId::generate().unwrap()).unwrap();
        let path = folder.join("");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_parent_that_others_can_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = RunFolder::create_below(parent.path(), &ContainerId::generate().unwrap());
        assert!(matches!(refused, Err(RunFolderError::NotOurs(_))));
    }

    #[test]
    fn the_folders_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let living = RunFolder::create_below(parent.path(), &ContainerId::generate().unwrap()).unwrap();
        let dead = parent.path().join("dead");
        fs::create_dir(&dead).unwrap();
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        for path in [&dead, &living.join("")] {
            File::open(path).unwrap().set_modified(old).unwrap();
        }
        sweep(parent.path());
        assert!(!dead.exists() && living.join("").exists());
    }
}
