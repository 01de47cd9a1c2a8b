//! `images.json`: the images and their names.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ResolveError, StoreError};
use crate::digest::Digest;
use crate::reference::Reference;

/// Of the list; a newer one is refused rather than damaged.
const VERSION: u32 = 1;

/// The whole list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Records {
    version: u32,
    pub(super) images: Vec<ImageRecord>,
}

impl Default for Records {
    fn default() -> Records {
        Records { version: VERSION, images: Vec::new() }
    }
}

/// One image; there is one for each id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) id: Digest,
    pub(super) manifest: Digest,
    /// Names with tags; a name belongs to one image only.
    pub(super) references: Vec<Reference>,
    pub(super) created: Option<String>,
    /// All layers as the manifest has them, bottom first.
    pub(super) layers: Vec<LayerRecord>,
    /// Layers below this one are hidden by its opaque root.
    pub(super) first: usize,
    /// The top layer that repairs attributes, if one is needed.
    pub(super) attributes: Option<AttributesRecord>,
}

/// One layer of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) diff_id: Digest,
    /// The layer as it came.
    pub(super) blob: Digest,
    /// Size of the EROFS image.
    pub(super) image_bytes: u64,
    /// Size of the files in it.
    pub(super) content_bytes: u64,
}

/// The generated top layer of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AttributesRecord {
    /// Digest of all diff-ids.
    pub(super) chain: Digest,
    pub(super) image_bytes: u64,
}

impl Records {
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Records, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |source| StoreError::Damaged { path: path.to_owned(), source };
        let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
        if version.version > VERSION {
            return Err(StoreError::TooNew { path: path.to_owned(), found: version.version, known: VERSION });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    pub(super) fn by_id(&self, id: &Digest) -> Option<&ImageRecord> {
        self.images.iter().find(|image| image.id == *id)
    }

    /// Docker's order: a whole id, then a reference, then the start of an id. The reference is returned if the
    /// image was found by it.
    pub(super) fn find(&self, name: &str) -> Result<(&ImageRecord, Option<Reference>), ResolveError> {
        // As Docker: with the tag that is meant.
        let not_found = || {
            let whole = Reference::parse(name).map(|reference| reference.to_string());
            ResolveError::NotFound(whole.unwrap_or_else(|_| name.chars().take(300).collect()))
        };
        if let Ok(id) = name.parse().or_else(|_| Digest::from_hex(name)) {
            return self.by_id(&id).map(|image| (image, None)).ok_or_else(not_found);
        }
        if let Ok(reference) = Reference::parse(name)
            && let Some(image) = self.by_reference(&reference)
        {
            return Ok((image, Some(reference)));
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.is_empty() || !prefix.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(not_found());
        }
        let mut found = self.images.iter().filter(|image| image.id.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(image), None) => Ok((image, None)),
            (Some(_), Some(_)) => Err(ResolveError::Ambiguous(prefix.to_owned())),
            (None, _) => Err(not_found()),
        }
    }

    /// By tag, or by manifest digest within a repository that the image has a name in.
    fn by_reference(&self, reference: &Reference) -> Option<&ImageRecord> {
        self.images.iter().find(|image| match reference.digest() {
            None => image.references.contains(reference),
            Some(digest) => {
                image.manifest == *digest
                    && image.references.iter().any(|other| {
                        other.domain() == reference.domain()
                            && other.path() == reference.path()
                            && reference.tag().is_none_or(|tag| other.tag() == Some(tag))
                    })
            }
        })
    }

    /// Gives an image a name that another may have had.
    pub(super) fn rename(&mut self, id: Digest, reference: &Reference) {
        for image in &mut self.images {
            let has = image.references.contains(reference);
            if image.id == id && !has {
                image.references.push(reference.clone());
            } else if image.id != id && has {
                image.references.retain(|other| other != reference);
            }
        }
    }

    /// Adds an image or the names of one that is there; its names leave the images that had them.
    pub(super) fn add(&mut self, new: ImageRecord) {
        for image in &mut self.images {
            image.references.retain(|reference| !new.references.contains(reference));
        }
        match self.images.iter_mut().find(|image| image.id == new.id) {
            Some(image) => {
                let mut references = std::mem::take(&mut image.references);
                references.extend(new.references.iter().cloned());
                *image = ImageRecord { references, ..new };
            }
            None => self.images.push(new),
        }
    }
}
