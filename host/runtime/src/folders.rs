//! The state folder: one daemon's, with a folder for each container in it.
//!
//! ```text
//!  daemon.lock   held by the daemon that owns all of this, with its pid in it
//!  version       the format's, a number
//!  containers/   <id>/ container.json, writable.ext4, <id>-json.log, …
//!  images/       the image store's
//! ```
//!
//! Records are written aside, synced, and renamed: a crash leaves the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::container::ContainerId;
use crate::record::ContainerRecord;

/// The format of what is in the state folder. Raised when an older daemon would misread it.
pub const FORMAT_VERSION: u32 = 2;
/// A record is some kilobytes; one beyond this is not ours. The API takes bodies of 4 MiB.
const MAX_RECORD_BYTES: u64 = 16 << 20;
/// Files that tell the version and the owner hold a number.
const MAX_NUMBER_BYTES: u64 = 32;

/// Why the state folder is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another daemon owns it.
    #[error("the state folder {} is in use by another process ({owner})", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process of the newest daemon that had it.
        owner: String,
    },
    /// A newer capsid wrote it.
    #[error(
        "the state folder {} has format {found}, and this capsid knows formats up to {FORMAT_VERSION}: \
         use a newer capsid, or another folder",
        .path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format that was found.
        found: String,
    },
    /// The file system refused.
    #[error("failed to {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, FolderError>;

fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
    move |source| FolderError::Io { action, path: path.to_owned(), source }
}

/// A state folder that is ours while this lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Takes a state folder, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// [`FolderError::InUse`], [`FolderError::Newer`], and the file system's; nothing was changed then.
    pub fn open(path: &Path) -> Result<StateFolder> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(on("make the folder", path))?;
        let path = path.canonicalize().map_err(on("find the folder", path))?;
        let lock = lock(&path)?;
        check_version(&path)?;
        let containers = path.join("containers");
        builder.create(&containers).map_err(on("make the folder", &containers))?;
        Ok(StateFolder { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of one container, which may not exist.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> ContainerFolder {
        ContainerFolder { path: self.path.join("containers").join(id.as_str()) }
    }

    /// Makes the folder of a new container.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn create(&self, id: &ContainerId) -> Result<ContainerFolder> {
        let folder = self.container(id);
        DirBuilder::new().mode(0o700).create(&folder.path).map_err(on("make the folder", &folder.path))?;
        Ok(folder)
    }

    /// Every container that has a record. Folders without one are left of a container that was being made or
    /// removed: they are removed. A record that cannot be read is left alone, and told by its path.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn load(&self) -> Result<(Vec<ContainerRecord>, Vec<PathBuf>)> {
        let containers = self.path.join("containers");
        let entries = fs::read_dir(&containers).map_err(on("read the folder", &containers))?;
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for path in entries.filter_map(io::Result::ok).map(|entry| entry.path()) {
            let record = path.join("container.json");
            if !record.exists() {
                let _ = fs::remove_dir_all(&path);
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            match read_record(&record).filter(|record| Some(record.id.as_str()) == name) {
                Some(record) => records.push(record),
                None => unreadable.push(record),
            }
        }
        Ok((records, unreadable))
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut lock = take_lock(path)?;
    let lock_path = path.join("daemon.lock");
    lock.set_len(0).map_err(on("write", &lock_path))?;
    writeln!(lock, "{}", std::process::id()).map_err(on("write", &lock_path))?;
    Ok(lock)
}

fn take_lock(path: &Path) -> Result<File> {
    let lock_path = path.join("daemon.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    let mut lock = options.open(&lock_path).map_err(on("open", &lock_path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let _ = (&mut lock).take(MAX_NUMBER_BYTES).read_to_string(&mut owner);
            Err(FolderError::InUse { path: path.to_owned(), owner: owner.trim().to_owned() })
        }
        Err(error) => Err(on("lock", &lock_path)(error.into())),
    }
}

/// A folder without a version is new, or of a capsid before there were versions: those wrote other records.
fn check_version(path: &Path) -> Result<()> {
    let version_path = path.join("version");
    let mut text = String::new();
    match File::open(&version_path) {
        Ok(file) => {
            file.take(MAX_NUMBER_BYTES).read_to_string(&mut text).map_err(on("read", &version_path))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(on("open", &version_path)(error)),
    }
    let text = text.trim();
    match text.parse::<u32>() {
        Ok(version) if version <= FORMAT_VERSION => {}
        Err(_) if text.is_empty() => {}
        _ => return Err(FolderError::Newer { path: path.to_owned(), found: text.to_owned() }),
    }
    write_whole(&version_path, format!("{FORMAT_VERSION}\n").as_bytes(), true)
}

fn read_record(path: &Path) -> Option<ContainerRecord> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_RECORD_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// One container's folder.
#[derive(Debug, Clone)]
pub struct ContainerFolder {
    path: PathBuf,
}

impl ContainerFolder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's writable layer.
    #[must_use]
    pub fn writable_path(&self) -> PathBuf {
        self.path.join("writable.ext4")
    }

    /// Writes the record. It survives the end of this process; with `synced`, also that of the host.
    ///
    /// # Errors
    ///
    /// The record on disk is the old one.
    pub fn save(&self, record: &ContainerRecord, synced: bool) -> Result<()> {
        let path = self.path.join("container.json");
        let text = serde_json::to_vec(record).map_err(|error| on("write", &path)(error.into()))?;
        write_whole(&path, &text, synced)
    }

    /// Removes the folder. A crash in the middle leaves a folder without a record, which [`StateFolder::load`]
    /// removes.
    ///
    /// # Errors
    ///
    /// Something may be left; removing again goes on with it.
    pub fn remove(&self) -> Result<()> {
        let record = self.path.join("container.json");
        for removed in [fs::remove_file(&record), fs::remove_dir_all(&self.path)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(on("remove", &self.path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Replaces a file as a whole.
///
/// # Errors
///
/// The file is the old one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], synced: bool) -> Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .map_err(on("make", &draft))?;
    file.write_all(bytes).map_err(on("write", &draft))?;
    if synced {
        file.sync_all().map_err(on("sync", &draft))?;
    }
    fs::rename(&draft, path).map_err(on("rename to", path))?;
    if let Some(folder) = path.parent().filter(|_| synced) {
        let opened = File::open(folder).map_err(on("open", folder))?;
        opened.sync_all().map_err(on("sync", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateFolder::open(folder.path()).unwrap();
        let refused = StateFolder::open(folder.path()).unwrap_err();
        let owner = std::process::id().to_string();
        assert!(matches!(&refused, FolderError::InUse { owner: told, .. } if *told == owner), "{refused}");
        drop(first);
        assert!(StateFolder::open(folder.path()).is_ok());
    }

    #[test]
    fn a_newer_format_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["3", "9999999999", "two"] {
            fs::write(folder.path().join("version"), version).unwrap();
            let refused = StateFolder::open(folder.path()).unwrap_err();
            assert!(matches!(&refused, FolderError::Newer { found, .. } if found == version), "{refused}");
            assert_eq!(fs::read_to_string(folder.path().join("version")).unwrap(), version);
        }
    }

    #[test]
    fn a_folder_without_a_record_is_cleared_and_an_unreadable_record_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let half = state.create(&ContainerId::generate().unwrap()).unwrap();
        let strange = state.create(&ContainerId::generate().unwrap()).unwrap();
        fs::write(strange.path().join("container.json"), "{").unwrap();
        let (records, unreadable) = state.load().unwrap();
        assert!(records.is_empty() && !half.path().exists());
        assert_eq!(unreadable, [strange.path().join("container.json")]);
    }
}
