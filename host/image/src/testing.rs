//! Awkward images by code, and layers composed in memory; for tests only (feature `testing`).
//!
//! [`awkward_image`] writes an archive with everything that file systems and overlays get wrong. [`compose`] shows
//! what a stack of layers amounts to, by overlayfs's rules, without mounting anything.

mod awkward;
mod compose;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use awkward::{awkward_image, awkward_image_packed, awkward_image_with};
pub use capsid_tar::testing::{TestEntry, TestWriter as TarWriter, entry};
pub use compose::{Composed, compose, convert};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::digest::Digest;

/// Gathers an OCI archive's members and writes them.
pub struct ArchiveWriter {
    output: TarWriter<File>,
    path: PathBuf,
    layers: Vec<serde_json::Value>,
    diff_ids: Vec<Digest>,
}

/// How a layer is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As a plain tar stream.
    Plain,
    /// With gzip, quickly.
    Gzip,
    /// With zstd.
    Zstd,
}

impl ArchiveWriter {
    /// Starts an archive at `path`.
    pub fn create(path: &Path) -> io::Result<ArchiveWriter> {
        let mut output = TarWriter::new(File::create(path)?);
        output.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(ArchiveWriter { output, path: path.to_owned(), layers: Vec::new(), diff_ids: Vec::new() })
    }

    /// Adds a layer, from the bottom up.
    pub fn layer(&mut self, tar: &[u8], packing: Packing) -> io::Result<()> {
        let (blob, suffix) = match packing {
            Packing::Plain => (tar.to_vec(), ""),
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar)?;
                (encoder.finish()?, "+gzip")
            }
            Packing::Zstd => (zstd::encode_all(tar, 1)?, "+zstd"),
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        let descriptor = self.blob(&blob, &media_type)?;
        self.layers.push(descriptor);
        self.diff_ids.push(Digest::of(tar));
        Ok(())
    }

    fn blob(&mut self, bytes: &[u8], media_type: &str) -> io::Result<serde_json::Value> {
        let digest = Digest::of(bytes);
        self.output.file(&format!("blobs/sha256/{}", digest.hex()), bytes)?;
        Ok(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }

    /// Writes the documents; the image is called `name`.
    pub fn finish(mut self, name: &str) -> io::Result<PathBuf> {
        let config = serde_json::json!({
            "created": "2026-01-02T03:04:05Z",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        });
        let config = self.blob(&serde_json::to_vec(&config)?, "application/vnd.oci.image.config.v1+json")?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": std::mem::take(&mut self.layers),
        });
        let mut manifest =
            self.blob(&serde_json::to_vec(&manifest)?, "application/vnd.oci.image.manifest.v1+json")?;
        manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
        self.output.file("index.json", &serde_json::to_vec(&index)?)?;
        self.output.finish()?.sync_data()?;
        Ok(self.path)
    }
}
