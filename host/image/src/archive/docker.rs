//! `docker save` archives without an OCI index: `manifest.json`.

use serde::Deserialize;

use super::find::{check_config, parse};
use super::{Archive, ArchiveError, FoundImage, FoundLayer};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::reference::Reference;
use capsid_tar::EscapedName;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Finds the images of `manifest.json`.
pub(super) fn find(
    archive: &Archive,
    manifest: &[u8],
    limits: &Limits,
) -> Result<Vec<FoundImage>, ArchiveError> {
    let saved: Vec<SavedImage> = parse("manifest.json", manifest)?;
    if saved.len() > limits.max_images {
        return Err(ArchiveError::TooManyImages(limits.max_images));
    }
    saved.iter().map(|image| read(archive, image, limits)).collect()
}

fn read(archive: &Archive, saved: &SavedImage, limits: &Limits) -> Result<FoundImage, ArchiveError> {
    let member = || EscapedName::new(saved.config.as_bytes());
    let config_bytes = archive
        .document(&saved.config, limits.max_document_bytes)?
        .ok_or_else(|| ArchiveError::Missing(member()))?;
    let id = Digest::of(&config_bytes);
    // The file is named by its digest, `HEX.json` or `blobs/sha256/HEX`; anything else claims nothing.
    let name = saved.config.rsplit('/').next().unwrap_or_default();
    if Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).is_ok_and(|claimed| claimed != id) {
        return Err(ArchiveError::WrongDigest { member: member(), found: id });
    }
    let config = check_config(id, &config_bytes, saved.layers.len(), limits)?;
    let references = saved.repo_tags.iter().flatten().map(|tag| Reference::parse(tag));
    let references = references.collect::<Result<Vec<_>, _>>().map_err(ArchiveError::Name)?;
    let mut layers = Vec::with_capacity(saved.layers.len());
    for (name, diff_id) in saved.layers.iter().zip(config.diff_ids) {
        let found = archive.member(name)?;
        let size = found.ok_or_else(|| ArchiveError::Missing(EscapedName::new(name.as_bytes())))?.size();
        layers.push(FoundLayer { member: name.clone(), digest: None, size, compression: None, diff_id });
    }
    Ok(FoundImage { references, id, config_bytes, manifest: None, layers, created: config.created })
}
