//! OCI layouts: `index.json`, nested indexes, manifests.

use std::collections::HashMap;

use serde::Deserialize;

use super::find::{check_config, host_platform, parse};
use super::{Archive, ArchiveError, FoundImage, FoundLayer};
use crate::digest::Digest;
use crate::layer::Compression;
use crate::limits::Limits;
use crate::reference::Reference;
use capsid_tar::EscapedName;

/// How deep indexes may refer to indexes.
const MAX_INDEX_DEPTH: usize = 4;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Where containerd and BuildKit put an image's whole name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Where OCI puts a name that may be no more than a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What BuildKit marks things with that are no images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Descriptor {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn platform(&self) -> Option<String> {
        self.platform.as_ref().map(|platform| format!("{}/{}", platform.os, platform.architecture))
    }

    fn member(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    /// The name this descriptor gives its image. A bare word is a repository's name, as podman takes it.
    fn reference(&self) -> Result<Option<Reference>, ArchiveError> {
        let name = self.annotation(IMAGE_NAME).or_else(|| self.annotation(REF_NAME));
        name.map(Reference::parse).transpose().map_err(ArchiveError::Name)
    }

    /// Reads and checks the document that this descriptor names.
    fn document(&self, archive: &Archive, limits: &Limits) -> Result<Vec<u8>, ArchiveError> {
        let name = self.member();
        let member = || EscapedName::new(name.as_bytes());
        let bytes = archive
            .document(&name, limits.max_document_bytes)?
            .ok_or_else(|| ArchiveError::Missing(member()))?;
        if bytes.len() as u64 != self.size {
            let found = bytes.len() as u64;
            return Err(ArchiveError::WrongSize { member: member(), stated: self.size, found });
        }
        match Digest::of(&bytes) {
            found if found == self.digest => Ok(bytes),
            found => Err(ArchiveError::WrongDigest { member: member(), found }),
        }
    }
}

/// What is being gathered.
struct Search<'a> {
    archive: &'a Archive,
    limits: &'a Limits,
    images: Vec<FoundImage>,
    /// Platforms that were passed over.
    passed: Vec<String>,
    /// Documents read so far, images or not.
    visited: usize,
}

/// Finds the images of `index.json`. Each of its entries is an image or an index of one image for several
/// platforms; entries for other platforms are passed over as long as one fits.
pub(super) fn find(
    archive: &Archive,
    index: &[u8],
    limits: &Limits,
) -> Result<Vec<FoundImage>, ArchiveError> {
    let index: Index = parse("index.json", index)?;
    let mut search = Search { archive, limits, images: Vec::new(), passed: Vec::new(), visited: 0 };
    for descriptor in &index.manifests {
        let reference = descriptor.reference()?;
        search.visit(descriptor, reference, 0)?;
    }
    if search.images.is_empty() && !search.passed.is_empty() {
        let found = EscapedName::new(search.passed.join(", ").as_bytes());
        return Err(ArchiveError::Platform { wanted: host_platform(), found });
    }
    Ok(search.images)
}

impl Search<'_> {
    /// Adds what `descriptor` leads to. Returns whether that was an image for this machine.
    fn visit(
        &mut self,
        descriptor: &Descriptor,
        reference: Option<Reference>,
        depth: usize,
    ) -> Result<bool, ArchiveError> {
        if descriptor.annotation(REFERENCE_TYPE).is_some() {
            return Ok(false);
        }
        if let Some(platform) = descriptor.platform()
            && platform != host_platform()
        {
            self.passed.push(platform);
            return Ok(false);
        }
        self.visited += 1;
        if self.visited > self.limits.max_images {
            return Err(ArchiveError::TooManyImages(self.limits.max_images));
        }
        match descriptor.media_type.as_str() {
            OCI_INDEX | DOCKER_LIST => self.visit_index(descriptor, reference, depth),
            OCI_MANIFEST | DOCKER_MANIFEST => self.visit_manifest(descriptor, reference).map(|()| true),
            other => Err(ArchiveError::MediaType(EscapedName::new(other.as_bytes()))),
        }
    }

    /// Takes the first image of a nested index that fits.
    fn visit_index(
        &mut self,
        descriptor: &Descriptor,
        reference: Option<Reference>,
        depth: usize,
    ) -> Result<bool, ArchiveError> {
        if depth == MAX_INDEX_DEPTH {
            return Err(ArchiveError::IndexDepth);
        }
        let bytes = descriptor.document(self.archive, self.limits)?;
        let index: Index = parse(&descriptor.member(), &bytes)?;
        for inner in &index.manifests {
            if self.visit(inner, reference.clone(), depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn visit_manifest(
        &mut self,
        descriptor: &Descriptor,
        reference: Option<Reference>,
    ) -> Result<(), ArchiveError> {
        let bytes = descriptor.document(self.archive, self.limits)?;
        let manifest: Manifest = parse(&descriptor.member(), &bytes)?;
        let config_bytes = manifest.config.document(self.archive, self.limits)?;
        let id = manifest.config.digest;
        if let Some(same) = self.images.iter_mut().find(|image| image.manifest.as_ref() == Some(&bytes)) {
            same.references.extend(reference);
            return Ok(());
        }
        let config = check_config(id, &config_bytes, manifest.layers.len(), self.limits)?;
        let layers = manifest
            .layers
            .iter()
            .zip(config.diff_ids)
            .map(|(layer, diff_id)| self.layer(layer, diff_id))
            .collect::<Result<_, _>>()?;
        self.images.push(FoundImage {
            references: reference.into_iter().collect(),
            id,
            config_bytes,
            manifest: Some(bytes),
            layers,
            created: config.created,
        });
        Ok(())
    }

    fn layer(&self, descriptor: &Descriptor, diff_id: Digest) -> Result<FoundLayer, ArchiveError> {
        let compression = layer_compression(&descriptor.media_type)
            .ok_or_else(|| ArchiveError::MediaType(EscapedName::new(descriptor.media_type.as_bytes())))?;
        if descriptor.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(ArchiveError::ForeignLayer(descriptor.digest));
        }
        let name = descriptor.member();
        let member = || EscapedName::new(name.as_bytes());
        let found = self.archive.member(&name)?.ok_or_else(|| ArchiveError::Missing(member()))?.size();
        if found != descriptor.size {
            return Err(ArchiveError::WrongSize { member: member(), stated: descriptor.size, found });
        }
        let (digest, size) = (Some(descriptor.digest), descriptor.size);
        Ok(FoundLayer { member: name, digest, size, compression: Some(compression), diff_id })
    }
}

/// Media types of layers, OCI's and Docker's. Those of layers that may not be distributed are accepted as long as
/// the data is there.
fn layer_compression(media_type: &str) -> Option<Compression> {
    let rest = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"))
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"))?;
    match rest {
        "" => Some(Compression::Plain),
        "+gzip" | ".gzip" => Some(Compression::Gzip),
        "+zstd" | ".zstd" => Some(Compression::Zstd),
        _ => None,
    }
}
