//! What images take of the disk, for `system df`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use super::{Records, Store, StoreError};
use crate::digest::Digest;

/// What all images take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the disk that the store's files fill, each layer once: as it came, and as it is mounted.
    pub disk_bytes: u64,
    /// Size of the files in all layers, each layer once.
    pub content_bytes: u64,
    /// Of each image, by its id.
    pub images: HashMap<Digest, ImageUsage>,
}

/// What one image takes, as Docker counts it: the size of the files in its layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// All of its layers.
    pub size: u64,
    /// Those that other images have, too.
    pub shared: u64,
}

impl Store {
    /// What images take. Looks at every file of the store, and opens none.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let _lock = self.files.lock_shared()?;
        let records = self.files.read_records()?;
        let mut usage = usage_of(&records);
        for folder in [&self.files.blobs, &self.files.layers, &self.files.attributes] {
            usage.disk_bytes += disk_bytes(folder)?;
        }
        Ok(usage)
    }
}

fn usage_of(records: &Records) -> Usage {
    // In how many images each layer is, however often in one.
    let mut layers: HashMap<Digest, (u64, usize)> = HashMap::new();
    for image in &records.images {
        let mut own: Vec<_> = image.layers.iter().map(|layer| (layer.diff_id, layer.content_bytes)).collect();
        own.sort_unstable();
        own.dedup_by_key(|(diff_id, _)| *diff_id);
        for (diff_id, bytes) in own {
            layers.entry(diff_id).or_insert((bytes, 0)).1 += 1;
        }
    }
    let is_shared = |diff_id: &Digest| layers.get(diff_id).is_some_and(|(_, images)| *images > 1);
    let images = records.images.iter().map(|image| {
        let shared = image.layers.iter().filter(|layer| is_shared(&layer.diff_id));
        let shared = shared.map(|layer| layer.content_bytes).sum();
        (image.id, ImageUsage { size: image.size(), shared })
    });
    let images = images.collect();
    let content_bytes = layers.values().map(|(bytes, _)| bytes).sum();
    Usage { disk_bytes: 0, content_bytes, images }
}

fn disk_bytes(folder: &Path) -> Result<u64, StoreError> {
    use std::os::unix::fs::MetadataExt;
    /// The unit of `st_blocks` (POSIX leaves it open; Linux's `stat(2)` says 512).
    const BLOCK: u64 = 512;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        match entry.metadata() {
            Ok(metadata) => bytes += metadata.blocks().saturating_mul(BLOCK),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("look at", &entry.path())(error)),
        }
    }
    Ok(bytes)
}
