//! Containers on disk.
//!
//! ```text
//! STATE/containers/ID/container.json   the record: written to a temporary file, synced, renamed
//!                     writable.ext4    the writable layer; has no name for a container that is removed at its end
//!                     lock             locked by the process that runs the container, for as long as it does
//! STATE/names/NAME                     holds the id that has the name; made by link(2), so a name has one owner
//! ```
//!
//! A killed process leaves nothing locked, since the kernel drops its locks: [`ContainerStore::sweep`] finds such
//! containers, removes those that were to be removed at their end, and marks the others as exited.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::container::{ContainerId, ContainerName, ContainerRecord, ContainerState};

/// A record is small; what is larger is not one of ours.
const MAX_RECORD_BYTES: u64 = 4 << 20;
/// Random names tried before giving up.
const NAME_ATTEMPTS: usize = 64;
/// The exit code of a container whose machine vanished: as after SIGKILL.
const KILLED_EXIT_CODE: u8 = 137;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerStoreError {
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
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: ContainerName,
        /// Who has it.
        owner: String,
    },
    /// Nothing has that name or identifier.
    #[error("No such container: {0}")]
    NotFound(String),
    /// Several identifiers start so.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// It runs.
    #[error(
        "cannot remove container \"/{0}\": container is running: stop the container before removing or force remove"
    )]
    Running(ContainerName),
}

type Result<T> = std::result::Result<T, ContainerStoreError>;

/// Wraps an I/O error with what was tried on what.
fn on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ContainerStoreError + 'a {
    move |source| ContainerStoreError::Io { action, path: path.to_owned(), source }
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The containers below one state folder.
#[derive(Debug, Clone)]
pub struct ContainerStore {
    containers: PathBuf,
    names: PathBuf,
}

/// A container that this process holds: while it exists, nobody else runs or removes the container.
#[derive(Debug)]
pub struct HeldContainer {
    /// Its record, as it was last saved.
    pub record: ContainerRecord,
    folder: PathBuf,
    name_path: PathBuf,
    // Locked for as long as it is open.
    _lock: File,
}

impl ContainerStore {
    /// Opens the store below `state`, making its folders, private to this user, where they are missing.
    ///
    /// # Errors
    ///
    /// When a folder cannot be made.
    pub fn open(state: &Path) -> Result<ContainerStore> {
        let store = ContainerStore { containers: state.join("containers"), names: state.join("names") };
        for folder in [&store.containers, &store.names] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(on("make the folder", folder))?;
        }
        Ok(store)
    }

    /// The folder of a container without a name of its own, for files that vanish with their descriptor.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.containers
    }

    /// Makes a container and holds it. `name` is chosen when it is `None`.
    ///
    /// # Errors
    ///
    /// [`ContainerStoreError::NameTaken`], or the file system's; nothing is left of the container.
    pub fn create(
        &self,
        name: Option<ContainerName>,
        fill: impl FnOnce(&mut ContainerRecord),
    ) -> Result<HeldContainer> {
        let id = ContainerId::generate().map_err(on("get random numbers for", &self.containers))?;
        let folder = self.containers.join(id.as_str());
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(on("make the folder", &folder))?;
        let made = self.lock_and_name(&id, &folder, name).map(|(lock, name, name_path)| {
            let mut record = ContainerRecord {
                id,
                name,
                image: String::new(),
                image_id: String::new(),
                command: Vec::new(),
                created: unix_now(),
                auto_remove: false,
                state: ContainerState::Created,
            };
            fill(&mut record);
            HeldContainer { record, folder: folder.clone(), name_path, _lock: lock }
        });
        let held = match made {
            Ok(held) => held,
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                return Err(error);
            }
        };
        if let Err(error) = held.save() {
            let _ = held.remove();
            return Err(error);
        }
        Ok(held)
    }

    fn lock_and_name(
        &self,
        id: &ContainerId,
        folder: &Path,
        name: Option<ContainerName>,
    ) -> Result<(File, ContainerName, PathBuf)> {
        let lock = open_lock(folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| on("lock", folder)(error.into()))?;
        let (name, path) = match name {
            Some(name) => {
                self.claim(&name, id, folder)?.map(|path| (name.clone(), path)).ok_or_else(|| {
                    ContainerStoreError::NameTaken { owner: self.name_owner(&name).unwrap_or_default(), name }
                })?
            }
            None => self.claim_any(id, folder)?,
        };
        Ok((lock, name, path))
    }

    fn claim_any(&self, id: &ContainerId, folder: &Path) -> Result<(ContainerName, PathBuf)> {
        for _ in 0..NAME_ATTEMPTS {
            let name = ContainerName::generate().map_err(on("get random numbers for", &self.names))?;
            if let Some(path) = self.claim(&name, id, folder)? {
                return Ok((name, path));
            }
        }
        // Very many containers: a name that nobody else can have.
        let name = ContainerName::try_from(format!("c{}", id.short()))
            .map_err(|_| on("name", folder)(io::ErrorKind::InvalidInput.into()))?;
        let path = self.claim(&name, id, folder)?;
        path.map(|path| (name.clone(), path))
            .ok_or(ContainerStoreError::NameTaken { name, owner: id.to_string() })
    }

    /// Takes a name, or says that it is taken. The file is whole before it gets the name.
    fn claim(&self, name: &ContainerName, id: &ContainerId, folder: &Path) -> Result<Option<PathBuf>> {
        let path = self.names.join(name.as_str());
        let draft = folder.join("name");
        fs::write(&draft, id.as_str()).map_err(on("write", &draft))?;
        for _ in 0..2 {
            match fs::hard_link(&draft, &path) {
                Ok(()) => return Ok(Some(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let owner = self.name_owner(name).unwrap_or_default();
                    if self.containers.join(&owner).is_dir() && !owner.is_empty() {
                        return Ok(None);
                    }
                    // Left by a process that was killed between removing a container and its name.
                    let _ = fs::remove_file(&path);
                }
                Err(error) => return Err(on("take the name", &path)(error)),
            }
        }
        Ok(None)
    }

    fn name_owner(&self, name: &ContainerName) -> Option<String> {
        fs::read_to_string(self.names.join(name.as_str())).ok()
    }

    /// Every container, the newest first. What cannot be read is left out: it is being made or removed.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<ContainerRecord>> {
        let entries = fs::read_dir(&self.containers).map_err(on("read the folder", &self.containers))?;
        let folders = entries.filter_map(io::Result::ok).map(|entry| entry.path());
        let mut records: Vec<_> = folders.filter_map(|folder| read_record(&folder)).collect();
        records.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
        Ok(records)
    }

    /// The container with that name, identifier, or unambiguous start of an identifier.
    ///
    /// # Errors
    ///
    /// [`ContainerStoreError::NotFound`] and [`ContainerStoreError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<ContainerRecord> {
        let records = self.list()?;
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(record) =
            records.iter().find(|record| record.name.as_str() == name || record.id.as_str() == name)
        {
            return Ok(record.clone());
        }
        let mut matches =
            records.into_iter().filter(|record| !name.is_empty() && record.id.as_str().starts_with(name));
        match (matches.next(), matches.next()) {
            (Some(record), None) => Ok(record),
            (Some(_), Some(_)) => Err(ContainerStoreError::Ambiguous(reference.to_owned())),
            (None, _) => Err(ContainerStoreError::NotFound(reference.to_owned())),
        }
    }

    /// Takes hold of a container that nobody runs.
    ///
    /// # Errors
    ///
    /// [`ContainerStoreError::Running`] when somebody does.
    pub fn hold(&self, record: &ContainerRecord) -> Result<HeldContainer> {
        let folder = self.containers.join(record.id.as_str());
        let lock = open_lock(&folder)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ContainerStoreError::Running(record.name.clone())),
            Err(error) => return Err(on("lock", &folder)(error.into())),
        }
        let record =
            read_record(&folder).ok_or_else(|| ContainerStoreError::NotFound(record.id.to_string()))?;
        let name_path = self.names.join(record.name.as_str());
        Ok(HeldContainer { record, folder, name_path, _lock: lock })
    }

    /// Sets right what killed processes left: removes containers that were to be removed at their end, marks the
    /// others as exited, and removes folders without a record. Cheap when there is nothing to do.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read. What cannot be set right is left for the next time.
    pub fn sweep(&self) -> Result<()> {
        let entries = fs::read_dir(&self.containers).map_err(on("read the folder", &self.containers))?;
        for folder in entries.filter_map(io::Result::ok).map(|entry| entry.path()) {
            match read_record(&folder) {
                Some(record) if needs_sweep(&record) => self.sweep_one(&record),
                Some(_) => {}
                None => remove_abandoned(&folder),
            }
        }
        Ok(())
    }

    fn sweep_one(&self, record: &ContainerRecord) {
        let Ok(mut held) = self.hold(record) else { return };
        if held.record.auto_remove {
            let _ = held.remove();
        } else if matches!(held.record.state, ContainerState::Running { .. }) {
            let reason = Some("the process that ran it was killed".to_owned());
            held.record.state = ContainerState::Exited { code: KILLED_EXIT_CODE, at: unix_now(), reason };
            let _ = held.save();
        }
    }
}

fn needs_sweep(record: &ContainerRecord) -> bool {
    record.auto_remove || matches!(record.state, ContainerState::Running { .. })
}

/// Removes a folder that holds no record and that nobody is filling.
fn remove_abandoned(folder: &Path) {
    if !folder.is_dir() {
        return;
    }
    let Ok(lock) = open_lock(folder) else { return };
    // Between the folder's making and its lock's taking lies an instant in which it looks abandoned.
    let young = folder
        .metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age.as_secs() < 10));
    if !young && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_dir_all(folder);
    }
}

fn open_lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ContainerStoreError::NotFound(
            folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        ),
        _ => on("open", &path)(error),
    })
}

fn read_record(folder: &Path) -> Option<ContainerRecord> {
    let path = folder.join("container.json");
    let length = path.metadata().ok()?.len();
    if length > MAX_RECORD_BYTES {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

impl HeldContainer {
    /// Where the container's writable layer is.
    #[must_use]
    pub fn writable_path(&self) -> PathBuf {
        self.folder.join("writable.ext4")
    }

    /// Writes the record. It is durable when this returns, unless the container is one that is removed at its end:
    /// of those nothing is to survive.
    ///
    /// # Errors
    ///
    /// The record on disk is the old one.
    pub fn save(&self) -> Result<()> {
        let draft = self.folder.join("container.json.new");
        let path = self.folder.join("container.json");
        let text = serde_json::to_vec(&self.record).map_err(|error| on("write", &path)(error.into()))?;
        let mut file = File::create(&draft).map_err(on("make", &draft))?;
        file.write_all(&text).map_err(on("write", &draft))?;
        if !self.record.auto_remove {
            file.sync_all().map_err(on("sync", &draft))?;
        }
        fs::rename(&draft, &path).map_err(on("rename to", &path))?;
        if !self.record.auto_remove {
            let folder = File::open(&self.folder).map_err(on("open", &self.folder))?;
            folder.sync_all().map_err(on("sync", &self.folder))?;
        }
        Ok(())
    }

    /// Removes the container, its writable layer and its name.
    ///
    /// # Errors
    ///
    /// Something may be left; removing again goes on with it.
    pub fn remove(self) -> Result<()> {
        // The record goes first: what is left without one is rubbish that a sweep clears.
        let record = self.folder.join("container.json");
        match fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(on("remove", &record)(error));
            }
            _ => {}
        }
        fs::remove_dir_all(&self.folder).map_err(on("remove", &self.folder))?;
        let named = fs::read_to_string(&self.name_path).is_ok_and(|owner| owner == self.record.id.as_str());
        if named {
            fs::remove_file(&self.name_path).map_err(on("remove", &self.name_path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ContainerStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ContainerStore::open(folder.path()).unwrap();
        (folder, store)
    }

    fn name(text: &str) -> Option<ContainerName> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_name_has_one_owner_until_the_container_is_removed() {
        let (_folder, store) = store();
        let first = store.create(name("web"), |_| {}).unwrap();
        let taken = store.create(name("web"), |_| {}).unwrap_err();
        assert!(taken.to_string().contains(first.record.id.as_str()), "{taken}");
        assert_eq!(store.list().unwrap().len(), 1, "the refused one leaves nothing");
        first.remove().unwrap();
        assert!(store.create(name("web"), |_| {}).is_ok());
    }

    #[test]
    fn a_container_is_found_by_name_id_and_unambiguous_start() {
        let (_folder, store) = store();
        let held = store.create(name("web"), |record| record.image = "busybox".into()).unwrap();
        let id = held.record.id.clone();
        for reference in ["web", "/web", id.as_str(), id.short(), &id.as_str()[..1]] {
            assert_eq!(store.find(reference).unwrap().image, "busybox", "{reference}");
        }
        assert!(matches!(store.find("nobody"), Err(ContainerStoreError::NotFound(_))));
        assert!(matches!(store.find(""), Err(ContainerStoreError::NotFound(_))));
    }

    #[test]
    fn what_is_held_cannot_be_held_again_and_is_not_swept() {
        let (_folder, store) = store();
        let running = |record: &mut ContainerRecord| record.state = ContainerState::Running { since: 1 };
        let held = store.create(name("web"), running).unwrap();
        assert!(matches!(store.hold(&held.record), Err(ContainerStoreError::Running(_))));
        store.sweep().unwrap();
        assert!(matches!(store.find("web").unwrap().state, ContainerState::Running { .. }));
        drop(held);
        store.sweep().unwrap();
        assert!(matches!(store.find("web").unwrap().state, ContainerState::Exited { code: 137, .. }));
    }

    #[test]
    fn a_sweep_removes_what_was_to_be_removed_at_its_end() {
        let (_folder, store) = store();
        drop(store.create(name("web"), |record| record.auto_remove = true).unwrap());
        store.sweep().unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(store.create(name("web"), |_| {}).is_ok());
    }

    #[test]
    fn the_name_of_a_container_that_is_gone_can_be_taken() {
        let (_folder, store) = store();
        fs::write(store.names.join("web"), "0".repeat(64)).unwrap();
        assert!(store.create(name("web"), |_| {}).is_ok());
    }
}
