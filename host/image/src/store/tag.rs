//! `tag`: another name for an image.

use super::{ResolveError, Store, StoreError};
use crate::digest::Digest;
use crate::reference::Reference;

/// Why an image did not get a name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The image was not found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A name with a digest says what an image is, and cannot be given.
    #[error("refusing to create a tag with a digest reference")]
    Digest,
    /// The store failed.
    #[error("failed to tag the image")]
    Store(#[from] StoreError),
}

impl Store {
    /// Gives an image another name, which leaves the image that had it. Durable when this returns; the image's id is
    /// the result.
    pub fn tag(&self, name: &str, reference: &Reference) -> Result<Digest, TagError> {
        if reference.digest().is_some() {
            return Err(TagError::Digest);
        }
        let _lock = self.files.lock_exclusive()?;
        let mut records = self.files.read_records()?;
        let id = records.find(name)?.0.id;
        records.rename(id, reference);
        self.files.write_records(&records)?;
        Ok(id)
    }
}
