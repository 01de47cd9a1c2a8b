//! What others get to see of a stored image.

use std::fs::{self, File};
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use super::files::Files;
use super::{ImageRecord, StoreError};
use crate::digest::Digest;
use crate::reference::Reference;

/// An image that can be run. Its layers stay where they are only while the image is in the store or the store is
/// held; [`Image::open_layers`] makes a container independent of that.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The name it was found by; absent if it was found by its id.
    pub reference: Option<Reference>,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// All its names.
    pub references: Vec<Reference>,
    /// Its configuration as OCI knows it.
    pub config: ImageConfiguration,
    /// Its configuration as it came; Docker has fields that OCI does not know, such as health checks.
    pub config_bytes: Vec<u8>,
    /// The layers that make up its file system, bottom first. Layers that another one hides as a whole are left
    /// out, so there may be fewer than in the configuration.
    pub layers: Vec<Layer>,
    /// A generated layer above all others, if one is needed to show folders right: overlayfs shows a folder's
    /// attributes from the topmost layer that has it, and a layer need not know them.
    pub attributes_layer: Option<Layer>,
    /// Size of the files of each layer of the configuration, bottom first.
    pub layer_sizes: Vec<u64>,
    /// Size of all files in all layers, as Docker counts it.
    pub size: u64,
}

/// One read-only EROFS image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the layer's tar stream; for the attributes layer, of all diff-ids below it.
    pub diff_id: Digest,
    /// The EROFS image.
    pub path: PathBuf,
    /// Its size, a multiple of 4096.
    pub size: u64,
}

/// What `capsid images` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its names; none if another image took them.
    pub references: Vec<Reference>,
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// When its configuration says it was made, in RFC 3339's form.
    pub created: Option<String>,
    /// Size of all files in all layers.
    pub size: u64,
    /// Number of layers.
    pub layers: usize,
}

/// Why an image was not found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none.
    #[error("No such image: {0}")]
    NotFound(String),
    /// More than one id starts like that.
    #[error("image id prefix {0} is ambiguous")]
    Ambiguous(String),
    /// The stored configuration cannot be parsed, though it could when it was loaded.
    #[error("the configuration of image {0} is damaged")]
    Configuration(Digest, #[source] oci_spec::OciSpecError),
    /// The store failed.
    #[error("failed to look up the image")]
    Store(#[source] StoreError),
}

impl ImageRecord {
    pub(super) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.content_bytes).sum()
    }
}

impl From<ImageRecord> for ImageSummary {
    fn from(record: ImageRecord) -> ImageSummary {
        ImageSummary {
            size: record.size(),
            layers: record.layers.len(),
            references: record.references,
            id: record.id,
            manifest_digest: record.manifest,
            created: record.created,
        }
    }
}

impl Image {
    /// The caller holds the store's lock.
    pub(super) fn open(
        store: &Files,
        record: &ImageRecord,
        reference: Option<Reference>,
    ) -> Result<Image, ResolveError> {
        let path = store.blob_path(&record.id);
        let config_bytes =
            fs::read(&path).map_err(StoreError::io("read", &path)).map_err(ResolveError::Store)?;
        let config = ImageConfiguration::from_reader(config_bytes.as_slice())
            .map_err(|source| ResolveError::Configuration(record.id, source))?;
        let layers = record.layers.iter().skip(record.first).map(|layer| Layer {
            diff_id: layer.diff_id,
            path: store.layer_path(&layer.diff_id),
            size: layer.image_bytes,
        });
        let attributes_layer = record.attributes.as_ref().map(|attributes| Layer {
            diff_id: attributes.chain,
            path: store.attributes_path(&attributes.chain),
            size: attributes.image_bytes,
        });
        Ok(Image {
            id: record.id,
            reference,
            manifest_digest: record.manifest,
            references: record.references.clone(),
            config,
            config_bytes,
            layers: layers.collect(),
            attributes_layer,
            layer_sizes: record.layers.iter().map(|layer| layer.content_bytes).collect(),
            size: record.size(),
        })
    }

    /// All EROFS images of the file system, bottom first: the layers, and the attributes layer at the end if there
    /// is one.
    pub fn file_system_layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain(&self.attributes_layer)
    }

    /// Read-only descriptors of [`Image::file_system_layers`], in that order. They stay usable when the image is
    /// removed.
    pub fn open_layers(&self) -> Result<Vec<File>, StoreError> {
        self.file_system_layers()
            .map(|layer| File::open(&layer.path).map_err(StoreError::io("open", &layer.path)))
            .collect()
    }
}
