//! Which images an archive has, whatever its kind.

use std::str::FromStr;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::{Archive, ArchiveError, docker, oci};
use crate::digest::Digest;
use crate::layer::Compression;
use crate::limits::Limits;
use crate::reference::Reference;
use capsid_tar::EscapedName;

/// An image whose documents were read and checked; its layers were not yet.
#[derive(Debug)]
pub(crate) struct FoundImage {
    pub(crate) references: Vec<Reference>,
    /// The digest of its configuration.
    pub(crate) id: Digest,
    pub(crate) config_bytes: Vec<u8>,
    /// The manifest as it was found; a docker archive has none.
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) layers: Vec<FoundLayer>,
    /// When the configuration says it was made.
    pub(crate) created: Option<String>,
}

/// A layer that a manifest names.
#[derive(Debug, Clone)]
pub(crate) struct FoundLayer {
    /// The archive's member.
    pub(crate) member: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) size: u64,
    pub(crate) compression: Option<Compression>,
    pub(crate) diff_id: Digest,
}

/// Finds all images. The OCI index counts where there is one; a docker archive's manifest beside it says the same.
pub(crate) fn find_images(archive: &Archive, limits: &Limits) -> Result<Vec<FoundImage>, ArchiveError> {
    let images = if let Some(index) = archive.document("index.json", limits.max_document_bytes)? {
        oci::find(archive, &index, limits)?
    } else if let Some(manifest) = archive.document("manifest.json", limits.max_document_bytes)? {
        docker::find(archive, &manifest, limits)?
    } else {
        return Err(ArchiveError::NotAnImage);
    };
    if images.is_empty() { Err(ArchiveError::Empty) } else { Ok(images) }
}

/// Parses a JSON document.
pub(super) fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Malformed { member: EscapedName::new(name.as_bytes()), source })
}

/// What a configuration says that decides whether the image can be loaded.
pub(super) struct CheckedConfig {
    pub(super) diff_ids: Vec<Digest>,
    pub(super) created: Option<String>,
}

/// Checks a configuration against the number of layers.
pub(super) fn check_config(
    id: Digest,
    bytes: &[u8],
    layers: usize,
    limits: &Limits,
) -> Result<CheckedConfig, ArchiveError> {
    let config =
        ImageConfiguration::from_reader(bytes).map_err(|source| ArchiveError::Configuration(id, source))?;
    let found = format!("{}/{}", config.os(), config.architecture());
    if found != host_platform() {
        let found = EscapedName::new(found.as_bytes());
        return Err(ArchiveError::Platform { wanted: host_platform(), found });
    }
    let diff_ids: Vec<Digest> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| Digest::from_str(text))
        .collect::<Result<_, _>>()
        .map_err(|source| ArchiveError::Digest {
            member: EscapedName::new(id.to_string().as_bytes()),
            source,
        })?;
    if layers != diff_ids.len() {
        return Err(ArchiveError::LayerCount { id, layers, diff_ids: diff_ids.len() });
    }
    if layers == 0 {
        return Err(ArchiveError::NoLayers(id));
    }
    if layers > limits.max_layers {
        return Err(ArchiveError::TooManyLayers { id, found: layers, limit: limits.max_layers });
    }
    Ok(CheckedConfig { diff_ids, created: config.created().clone() })
}

/// The platform that images must be for, `linux/amd64` here.
pub(super) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}
