//! Folders for what is not finished, cleaned up by whoever finds their owner dead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::{self, Files};

/// One load's folder; removed when dropped.
pub(super) struct Staging {
    path: PathBuf,
    /// Locked as long as this process lives.
    _lock: File,
}

impl Staging {
    /// Makes a folder. The store's shared lock keeps cleaners out until the folder's own lock is held.
    pub(super) fn create(store: &Files) -> Result<Staging, StoreError> {
        let _shared = store.lock_shared()?;
        let folder = tempfile::Builder::new()
            .prefix("load-")
            .tempdir_in(&store.staging)
            .map_err(StoreError::io("create a folder in", &store.staging))?;
        let path = folder.path().join("lock");
        let lock = files::create(&path).map_err(StoreError::io("create", &path))?;
        lock.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Staging { path: folder.keep(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next cleaner.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes folders whose owners are gone. The caller holds the store's exclusive lock.
pub(super) fn clean(store: &Files) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("read", &store.staging)(error);
    for entry in fs::read_dir(&store.staging).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if abandoned(&path) {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn abandoned(folder: &Path) -> bool {
    match File::open(folder.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Killed before the lock file was made.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
