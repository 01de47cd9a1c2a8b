//! The image store: everything that was loaded, in one folder.
//!
//! ```text
//! ROOT/lock                     flock: shared to read, exclusive to change what is below
//! ROOT/images.json              which images there are, under which names; replaced as a whole
//! ROOT/blobs/sha256/HEX         manifests, configurations and layers as they came
//! ROOT/layers/sha256/HEX.erofs  a layer by its diff-id, beside HEX.json with notes
//! ROOT/attributes/sha256/HEX.erofs  a top layer that repairs folders' attributes, see `crate::attributes`
//! ROOT/staging/NAME/            what a running load has not finished; its `lock` is held while the load lives
//! ```
//!
//! Every change is prepared in a staging folder, synced, and moved into place under the exclusive lock; then
//! `images.json` is replaced. Whatever `images.json` does not refer to is garbage, and is collected under the same
//! lock: after a removal, after a load, and when the store is opened. So a `kill -9` or a full disk at any moment
//! loses nothing that was acknowledged and leaves nothing that stays.
//!
//! Files that containers have open stay usable after their image is removed.

mod collect;
mod files;
mod image;
mod load;
mod records;
mod remove;
mod save;
mod staging;
mod tag;
#[cfg(test)]
mod tests;
mod usage;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::Files;
pub use image::{Image, ImageSummary, Layer, ResolveError};
pub use load::{LoadError, LoadedImage};
use records::{ImageRecord, Records};
pub use remove::{ImageUse, RemoveError, RemoveOptions, Removed};
pub use save::{SaveError, Saved};
use staging::Staging;
pub use tag::TagError;
pub use usage::{ImageUsage, Usage};

use crate::digest::Digest;

/// A handle on a store; cheap to clone, and usable by many threads and processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    files: Arc<Files>,
}

/// What [`Store::load`] reads: an OCI layout, an OCI archive or a docker archive.
pub enum LoadSource {
    /// A folder or a file.
    Path(PathBuf),
    /// Anything that can only be read once, such as standard input; goes through the disk.
    Stream(Box<dyn Read + Send>),
}

/// Hears how a load goes on. Called from several threads.
pub trait Progress: Sync {
    /// `done_bytes` of the `total_bytes` of layer `index` of `total` are read. Layers that exist already are
    /// reported once, as done.
    fn layer(&self, index: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        let _ = (index, total, done_bytes, total_bytes);
    }

    /// Something was left out that does no harm, such as an extended attribute that Linux has no place for.
    fn warning(&self, text: &str) {
        let _ = text;
    }
}

/// Hears nothing.
impl Progress for () {}

/// Why the store failed. None of these is the image's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder of the store could not be used.
    #[error("failed to {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// `images.json` cannot be read.
    #[error("the list of images {} is damaged", .path.display())]
    Damaged {
        /// The list.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// `images.json` was written by a newer version.
    #[error("the list of images {} has version {found}, newer than {known}", .path.display())]
    TooNew {
        /// The list.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What this version can read.
        known: u32,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }
}

/// Keeps images from being removed and layers from being collected. See [`Store::hold`].
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl Store {
    /// Opens the store at `root`, which is created if it is not there, readable by its owner only. Clears what dead
    /// processes left behind, unless somebody is changing the store right now.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let store = Store { files: Arc::new(Files::create(root)?) };
        if let Some(lock) = store.files.try_lock_exclusive()? {
            let records = store.files.read_records()?;
            collect::collect(&store.files, &records)?;
            drop(lock);
        }
        Ok(store)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.files.root
    }

    /// Keeps [`Store::remove`] and the end of [`Store::load`] waiting until the result is dropped. Whoever starts
    /// a container holds the store from [`Store::resolve`] until the container's record says which image it uses:
    /// then `remove` either comes first, or sees the container.
    pub fn hold(&self) -> Result<Hold, StoreError> {
        Ok(Hold { _lock: self.files.lock_shared()? })
    }

    /// All images, the newest first, for `capsid images`.
    pub fn images(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let records = self.files.read_records()?;
        let mut images: Vec<ImageSummary> = records.images.into_iter().map(ImageSummary::from).collect();
        images.sort_by(|left, right| right.created.cmp(&left.created).then(left.id.cmp(&right.id)));
        Ok(images)
    }

    /// Finds an image by reference, by id or by the start of an id, in Docker's order.
    pub fn resolve(&self, name: &str) -> Result<Image, ResolveError> {
        let _lock = self.files.lock_shared().map_err(ResolveError::Store)?;
        let records = self.files.read_records().map_err(ResolveError::Store)?;
        let (record, reference) = records.find(name)?;
        Image::open(&self.files, record, reference)
    }
}

impl Files {
    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(format!("{}.erofs", diff_id.hex()))
    }

    fn notes_path(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(format!("{}.json", diff_id.hex()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn attributes_path(&self, chain: &Digest) -> PathBuf {
        self.attributes.join(format!("{}.erofs", chain.hex()))
    }
}
