//! Folders for machines' sockets: short enough for a socket's path, private, and findable by the next daemon.
//!
//! ```text
//!  <runtime folder>/<hash of the state folder>/<short id>/
//!      vsock, vsock_PORT   to and from the guest
//!      control             the monitor's
//!      report              how the machine ended; locked by the monitor while it lives
//!      complaint           what the monitor wrote on its stderr
//! ```

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use capsid_image::Digest;
use capsid_vmm::control::ControlRequest;
use rustix::process::geteuid;
use tokio::time::{sleep, timeout};

use crate::container::ContainerId;
use crate::monitor::{ask_control, is_alive};

/// Names the folder of sockets, before every other place.
pub const RUNTIME_DIR_VARIABLE: &str = "CAPSID_RUNTIME_DIR";
/// Hexadecimal digits of the hash that tells the state folders apart.
const HASH_DIGITS: usize = 16;
/// How long a machine that nobody knows may take to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10);

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

fn make<'a>(path: &'a Path) -> impl FnOnce(io::Error) -> RunFolderError + 'a {
    move |source| RunFolderError::Make { path: path.to_owned(), source }
}

/// The folders of one state folder's machines.
#[derive(Debug, Clone)]
pub struct RunFolders {
    path: PathBuf,
}

impl RunFolders {
    /// Those of the state folder at `state`, which must exist.
    ///
    /// # Errors
    ///
    /// When they cannot be had, or their parent is not safely ours.
    pub fn open(state: &Path) -> Result<RunFolders, RunFolderError> {
        RunFolders::open_below(&parent(), state)
    }

    fn open_below(parent: &Path, state: &Path) -> Result<RunFolders, RunFolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(make(parent))?;
        let metadata = fs::symlink_metadata(parent).map_err(make(parent))?;
        if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(RunFolderError::NotOurs(parent.to_owned()));
        }
        let state = state.canonicalize().map_err(make(state))?;
        let hash = Digest::of(state.as_os_str().as_encoded_bytes()).hex();
        let path = parent.join(hash.get(..HASH_DIGITS).unwrap_or(&hash));
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(make(&path))?;
        Ok(RunFolders { path })
    }

    /// The folder of a container's machine, whether it exists or not.
    #[must_use]
    pub fn of(&self, id: &ContainerId) -> RunFolder {
        RunFolder { path: self.path.join(id.short()) }
    }

    /// Makes the folder of a new machine, of which there must be none.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn create(&self, id: &ContainerId) -> Result<RunFolder, RunFolderError> {
        let folder = self.of(id);
        // Left of a machine that ended while nobody looked.
        folder.clear();
        DirBuilder::new().mode(0o700).create(&folder.path).map_err(make(&folder.path))?;
        Ok(folder)
    }

    /// Ends every machine but those of `keep`, and removes what they left. Each has some seconds to end.
    pub async fn clear_orphans(&self, keep: &HashSet<ContainerId>) {
        let kept: HashSet<&str> = keep.iter().map(ContainerId::short).collect();
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.filter_map(io::Result::ok) {
            if entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                continue;
            }
            let folder = RunFolder { path: entry.path() };
            if is_alive(&folder.report_path()) {
                tracing::warn!(folder = %folder.path.display(), "ending a machine that no container knows");
                let _ = timeout(ORPHAN_TIMEOUT, end(&folder)).await;
            }
            folder.clear();
        }
    }
}

async fn end(folder: &RunFolder) {
    while is_alive(&folder.report_path()) {
        let _ = ask_control(&folder.join("control"), ControlRequest::Stop).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// One machine's folder. It outlives this.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// A file of that name in the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn report_path(&self) -> PathBuf {
        self.join("report")
    }

    /// Removes the folder of a machine that has ended. What cannot be removed is, by the next machine of the container
    /// or the next daemon.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    pub(crate) fn another(&self) -> RunFolder {
        RunFolder { path: self.path.clone() }
    }

    /// Opens a new file in it.
    pub(crate) fn create_file(&self, name: &str) -> io::Result<File> {
        File::create_new(self.join(name))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_private_and_of_one_state_folder() {
        let (parent, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = ContainerId::generate().unwrap();
        let folders = RunFolders::open_below(parent.path(), state.path()).unwrap();
        let folder = folders.create(&id).unwrap();
        assert_eq!(folder.join("").metadata().unwrap().mode() & 0o777, 0o700);
        let other = RunFolders::open_below(parent.path(), parent.path()).unwrap();
        assert_ne!(other.of(&id).join(""), folder.join(""));
        assert!(folders.create(&id).is_ok(), "what is left of an earlier machine does not matter");
        folder.clear();
        assert!(!folder.join("").exists());
    }

    #[test]
    fn a_parent_that_others_can_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = RunFolders::open_below(parent.path(), parent.path());
        assert!(matches!(refused, Err(RunFolderError::NotOurs(_))));
    }

    #[tokio::test]
    async fn what_no_container_knows_is_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let folders = RunFolders::open_below(parent.path(), parent.path()).unwrap();
        let (known, unknown) = (ContainerId::generate().unwrap(), ContainerId::generate().unwrap());
        let (kept, cleared) = (folders.create(&known).unwrap(), folders.create(&unknown).unwrap());
        folders.clear_orphans(&HashSet::from([known])).await;
        assert!(kept.join("").exists() && !cleared.join("").exists());
    }
}
