//! Garbage: whatever the list of images does not refer to.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::Files;
use super::{Records, StoreError, staging};

/// Removes unreferenced files and abandoned staging folders. The caller holds the exclusive lock; `records` is what
/// is on the disk.
pub(super) fn collect(store: &Files, records: &Records) -> Result<(), StoreError> {
    staging::clean(store)?;
    remove(&store.root.join("images.json.new"))?;
    let mut wanted: HashSet<PathBuf> = HashSet::new();
    for image in &records.images {
        wanted.extend([store.blob_path(&image.id), store.blob_path(&image.manifest)]);
        for layer in &image.layers {
            wanted.insert(store.blob_path(&layer.blob));
            wanted.insert(store.layer_path(&layer.diff_id));
            wanted.insert(store.notes_path(&layer.diff_id));
        }
        wanted.extend(image.attributes.as_ref().map(|attributes| store.attributes_path(&attributes.chain)));
    }
    for folder in [&store.blobs, &store.layers, &store.attributes] {
        for entry in fs::read_dir(folder).map_err(StoreError::io("read", folder))? {
            let path = entry.map_err(StoreError::io("read", folder))?.path();
            if wanted.contains(&path) {
                continue;
            }
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
