//! The store's folders, its lock, and writing so that a crash leaves the old or the new.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Records, StoreError};

/// Nobody but the owner looks into the store: layers may hold secrets, and setuid files of strangers.
const FOLDER_MODE: u32 = 0o700;
/// Likewise.
pub(super) const FILE_MODE: u32 = 0o600;

/// Where things are.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) root: PathBuf,
    pub(super) blobs: PathBuf,
    pub(super) layers: PathBuf,
    pub(super) attributes: PathBuf,
    pub(super) staging: PathBuf,
}

impl Files {
    pub(super) fn create(root: &Path) -> Result<Files, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let files = Files {
            blobs: root.join("blobs/sha256"),
            layers: root.join("layers/sha256"),
            attributes: root.join("attributes/sha256"),
            staging: root.join("staging"),
            root,
        };
        for folder in [&files.blobs, &files.layers, &files.attributes, &files.staging] {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(StoreError::io("create", folder))?;
        }
        Ok(files)
    }

    fn lock_file(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.root.join("lock");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(&path).map_err(StoreError::io("open", &path))?;
        Ok((file, path))
    }

    /// Waits for a lock that others may share. Closing the file gives it back.
    pub(super) fn lock_shared(&self) -> Result<File, StoreError> {
        let (file, path) = self.lock_file()?;
        file.lock_shared().map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }

    /// Waits for a lock that nobody shares.
    pub(super) fn lock_exclusive(&self) -> Result<File, StoreError> {
        let (file, path) = self.lock_file()?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(file)
    }

    /// The same without waiting.
    pub(super) fn try_lock_exclusive(&self) -> Result<Option<File>, StoreError> {
        let (file, path) = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        }
    }

    fn records_path(&self) -> PathBuf {
        self.root.join("images.json")
    }

    /// The list of images; empty if there is none yet.
    pub(super) fn read_records(&self) -> Result<Records, StoreError> {
        let path = self.records_path();
        match fs::read(&path) {
            Ok(bytes) => Records::parse(&bytes, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Records::default()),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Replaces the list of images. The caller holds the exclusive lock, which also makes the temporary name safe.
    pub(super) fn write_records(&self, records: &Records) -> Result<(), StoreError> {
        let path = self.records_path();
        let temporary = self.root.join("images.json.new");
        let mut bytes = Vec::new();
        serde_json::to_writer(&mut bytes, records)
            .map_err(io::Error::from)
            .and_then(|()| write_synced(&temporary, &bytes))
            .map_err(StoreError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(StoreError::io("replace", &path))?;
        sync_folder(&self.root)
    }
}

/// Writes a new file, or replaces one that a crash left, and waits until it is on the disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a file that only the owner can read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Waits until the names in a folder are on the disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync", path))
}
