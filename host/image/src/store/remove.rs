//! `rmi`, with Docker's rules about what is only untagged, what is deleted and what is refused.

use std::fmt;

use super::{Records, ResolveError, Store, StoreError, collect};
use crate::digest::Digest;
use crate::reference::Reference;

/// A container that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The container's id.
    pub container: String,
    /// It is running, so that force does not help.
    pub running: bool,
}

/// How to remove an image.
pub struct RemoveOptions<'a> {
    /// Remove all names, and the image although stopped containers use it.
    pub force: bool,
    /// Which containers use the image of this id. Called while the store is locked: it must not use the store.
    pub in_use: &'a dyn Fn(&Digest) -> Vec<ImageUse>,
}

/// One line of what was removed; `Display` is Docker's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image (by its id) or a layer that nothing else uses (by its diff-id) is gone.
    Deleted(Digest),
}

impl fmt::Display for Removed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removed::Untagged(reference) => write!(formatter, "Untagged: {reference}"),
            Removed::Deleted(digest) => write!(formatter, "Deleted: {digest}"),
        }
    }
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The image was not found.
    #[error("failed to find the image")]
    Resolve(#[source] ResolveError),
    /// A container needs the image's last name.
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - container {container} is \
         using its referenced image {id}"
    )]
    ReferenceInUse {
        /// The name as it was given.
        reference: String,
        /// The start of the container's id.
        container: String,
        /// The start of the image's id.
        id: String,
    },
    /// The image was named by its id and has names in several repositories.
    #[error("conflict: unable to delete {0} (must be forced) - image is referenced in multiple repositories")]
    SeveralReferences(String),
    /// A stopped container uses the image.
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is being used by stopped container {container}"
    )]
    UsedByStopped {
        /// The start of the image's id.
        id: String,
        /// The start of the container's id.
        container: String,
    },
    /// A running container uses the image.
    #[error(
        "conflict: unable to delete {id} (cannot be forced) - image is being used by running container {container}"
    )]
    UsedByRunning {
        /// The start of the image's id.
        id: String,
        /// The start of the container's id.
        container: String,
    },
    /// The store failed.
    #[error("failed to remove the image")]
    Store(#[source] StoreError),
}

impl Store {
    /// Takes a name away from an image, and removes the image with the last of them. By id, an image is removed if
    /// all its names are in one repository; otherwise only by force.
    pub fn remove(&self, name: &str, options: &RemoveOptions<'_>) -> Result<Vec<Removed>, RemoveError> {
        let _lock = self.files.lock_exclusive().map_err(RemoveError::Store)?;
        let mut records = self.files.read_records().map_err(RemoveError::Store)?;
        let removed = plan(&mut records, name, options)?;
        self.files.write_records(&records).map_err(RemoveError::Store)?;
        collect::collect(&self.files, &records).map_err(RemoveError::Store)?;
        Ok(removed)
    }
}

/// Changes the records as the removal would. The order of checks is that of moby's `image_delete.go`.
fn plan(records: &mut Records, name: &str, options: &RemoveOptions<'_>) -> Result<Vec<Removed>, RemoveError> {
    let (found, reference) = records.find(name).map_err(RemoveError::Resolve)?;
    let mut image = found.clone();
    let uses = (options.in_use)(&image.id);
    let short = |container: &ImageUse| container.container.chars().take(12).collect::<String>();
    let id = image.id.short();
    let mut removed = Vec::new();
    let mut by_last_name = false;
    if let Some(reference) = reference {
        if let (false, true, Some(user)) = (options.force, single_reference(&image.references), uses.first())
        {
            return Err(RemoveError::ReferenceInUse {
                reference: name.to_owned(),
                container: short(user),
                id,
            });
        }
        // A name with a digest stands for the tags of its repository.
        let named = |other: &Reference| match reference.digest() {
            None => *other == reference,
            Some(_) => other.domain() == reference.domain() && other.path() == reference.path(),
        };
        let (gone, kept) = image.references.into_iter().partition(named);
        let gone: Vec<Reference> = gone;
        image.references = kept;
        removed.extend(gone.into_iter().map(Removed::Untagged));
        by_last_name = true;
    }
    let conflict = match uses.iter().find(|user| user.running) {
        Some(user) => Some(RemoveError::UsedByRunning { id, container: short(user) }),
        None if options.force => None,
        None if !by_last_name && !single_reference(&image.references) => {
            Some(RemoveError::SeveralReferences(id))
        }
        None => uses.first().map(|user| RemoveError::UsedByStopped { id, container: short(user) }),
    };
    let keep = by_last_name && (!image.references.is_empty() || conflict.is_some());
    if keep {
        // The name is gone; what still needs the image keeps it, without a word, as in Docker.
        let id = image.id;
        if let Some(place) = records.images.iter_mut().find(|other| other.id == id) {
            *place = image;
        }
        return Ok(removed);
    }
    if let Some(conflict) = conflict {
        return Err(conflict);
    }
    removed.extend(image.references.iter().cloned().map(Removed::Untagged));
    records.images.retain(|other| other.id != image.id);
    removed.push(Removed::Deleted(image.id));
    for layer in image.layers.iter().rev() {
        let used =
            records.images.iter().flat_map(|other| &other.layers).any(|other| other.diff_id == layer.diff_id);
        let line = Removed::Deleted(layer.diff_id);
        if !used && !removed.contains(&line) {
            removed.push(line);
        }
    }
    Ok(removed)
}

/// At most one tag, and every name in one repository: then an id stands for the name as well.
fn single_reference(references: &[Reference]) -> bool {
    references.len() <= 1
}
