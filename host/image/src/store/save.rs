//! `save`: images as an archive that is an OCI layout and a docker archive at once, as Docker has written them since
//! version 25.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use capsid_tar::{Entry, EntryKind, TarWriter, Timestamp};
use serde_json::{Value, json};

use super::{ImageRecord, Records, ResolveError, Staging, Store, StoreError};
use crate::digest::Digest;
use crate::reference::Reference;

/// Images that one archive may hold.
const MAX_IMAGES: usize = 256;
/// How much of a blob is copied at once.
const PIECE_BYTES: usize = 128 << 10;

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// An image was not found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// More images than one archive may hold.
    #[error("an archive holds at most {MAX_IMAGES} images")]
    TooMany,
    /// The store failed.
    #[error("failed to read the image")]
    Store(#[from] StoreError),
    /// Whoever takes the archive took no more of it.
    #[error("failed to write the archive")]
    Write(#[source] io::Error),
}

/// An archive that is ready to be written: it holds on to everything that it needs, whatever becomes of the images.
pub struct Saved {
    images: Vec<SavedImage>,
    staging: Staging,
}

/// An image, and the names of it that are asked for.
struct SavedImage {
    record: ImageRecord,
    names: Vec<Reference>,
}

impl Store {
    /// Prepares an archive of images. One that is named by its id is without names in it, as in Docker; of one that is
    /// named by a tag, that tag is in it.
    ///
    /// # Errors
    ///
    /// [`SaveError::Resolve`] if one of them is not there: then there is no archive at all.
    pub fn save(&self, names: &[impl AsRef<str>]) -> Result<Saved, SaveError> {
        if names.len() > MAX_IMAGES {
            return Err(SaveError::TooMany);
        }
        let staging = Staging::create(&self.files)?;
        let _lock = self.files.lock_shared()?;
        let records = self.files.read_records()?;
        let images = chosen(&records, names)?;
        for digest in images.iter().flat_map(|image| blobs(&image.record)) {
            let own = blob(&staging, &digest);
            if !own.exists() {
                let stored = self.files.blob_path(&digest);
                fs::hard_link(&stored, own).map_err(StoreError::io("link", &stored))?;
            }
        }
        Ok(Saved { images, staging })
    }
}

fn chosen(records: &Records, names: &[impl AsRef<str>]) -> Result<Vec<SavedImage>, ResolveError> {
    let mut images: Vec<SavedImage> = Vec::new();
    for name in names {
        let (record, reference) = records.find(name.as_ref())?;
        let place = images.iter().position(|image| image.record.id == record.id).unwrap_or_else(|| {
            images.push(SavedImage { record: record.clone(), names: Vec::new() });
            images.len() - 1
        });
        let names = &mut images[place].names;
        // A name with a digest is none that an archive can give.
        names
            .extend(reference.filter(|reference| reference.digest().is_none() && !names.contains(reference)));
    }
    Ok(images)
}

/// Everything that an image consists of; its layers may have blobs in common.
fn blobs(record: &ImageRecord) -> BTreeSet<Digest> {
    let layers = record.layers.iter().map(|layer| layer.blob);
    layers.chain([record.id, record.manifest]).collect()
}

fn blob(staging: &Staging, digest: &Digest) -> PathBuf {
    staging.file(&digest.hex())
}

impl Saved {
    /// Writes the archive. Blocking; as slow as whoever takes it.
    ///
    /// # Errors
    ///
    /// [`SaveError::Write`], and [`SaveError::Store`] if a blob cannot be read.
    pub fn write(self, output: impl Write) -> Result<(), SaveError> {
        let mut archive = Archive { tar: TarWriter::new(output) };
        archive.folder("blobs/")?;
        archive.folder("blobs/sha256/")?;
        let wanted: BTreeSet<Digest> = self.images.iter().flat_map(|image| blobs(&image.record)).collect();
        for digest in &wanted {
            archive.copy(&member(digest), &blob(&self.staging, digest))?;
        }
        let manifest: Vec<Value> = self.images.iter().map(SavedImage::docker_manifest).collect();
        let mut index = Vec::new();
        for image in &self.images {
            image.descriptors(&self.staging, &mut index)?;
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": index,
        });
        archive.document("index.json", &index)?;
        archive.document("manifest.json", &Value::Array(manifest))?;
        archive.document("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        archive.tar.finish().map_err(SaveError::Write)?;
        Ok(())
    }
}

fn member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl SavedImage {
    /// What docker archives know of an image.
    fn docker_manifest(&self) -> Value {
        json!({
            "Config": member(&self.record.id),
            "RepoTags": self.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "Layers": self.record.layers.iter().map(|layer| member(&layer.blob)).collect::<Vec<_>>(),
        })
    }

    /// What OCI layouts know of it: its manifest, once for each name.
    fn descriptors(&self, staging: &Staging, index: &mut Vec<Value>) -> Result<(), SaveError> {
        let path = blob(staging, &self.record.manifest);
        let manifest = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let parsed: Value = serde_json::from_slice(&manifest).unwrap_or_default();
        let kind = parsed["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        let mut descriptor = json!({
            "mediaType": kind,
            "digest": self.record.manifest,
            "size": manifest.len(),
        });
        if self.names.is_empty() {
            index.push(descriptor);
            return Ok(());
        }
        for name in &self.names {
            descriptor["annotations"] = json!({
                "io.containerd.image.name": name.canonical(),
                "org.opencontainers.image.ref.name": name.tag(),
            });
            index.push(descriptor.clone());
        }
        Ok(())
    }
}

struct Archive<W: Write> {
    tar: TarWriter<W>,
}

impl<W: Write> Archive<W> {
    fn folder(&mut self, name: &str) -> Result<(), SaveError> {
        self.tar.entry(&entry(name, EntryKind::Directory, 0)).map_err(SaveError::Write)
    }

    fn document(&mut self, name: &str, value: &Value) -> Result<(), SaveError> {
        let text = value.to_string();
        let written = self.tar.entry(&entry(name, EntryKind::File, text.len() as u64));
        written.and_then(|()| self.tar.data(text.as_bytes())).map_err(SaveError::Write)
    }

    fn copy(&mut self, name: &str, path: &Path) -> Result<(), SaveError> {
        let mut file = File::open(path).map_err(StoreError::io("open", path))?;
        let size = file.metadata().map_err(StoreError::io("look at", path))?.len();
        self.tar.entry(&entry(name, EntryKind::File, size)).map_err(SaveError::Write)?;
        let mut piece = vec![0; PIECE_BYTES];
        while self.tar.remaining() > 0 {
            let count = file.read(&mut piece).map_err(StoreError::io("read", path))?;
            if count == 0 {
                return Err(StoreError::io("read", path)(io::ErrorKind::UnexpectedEof.into()).into());
            }
            self.tar.data(&piece[..count]).map_err(SaveError::Write)?;
        }
        Ok(())
    }
}

/// Times and owners say nothing here, and the same images are to give the same archive.
fn entry(name: &str, kind: EntryKind, size: u64) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        mode: if kind == EntryKind::Directory { 0o755 } else { 0o644 },
        kind,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 0, nanoseconds: 0 },
        size,
        xattrs: Vec::new(),
        sparse: None,
        data_offset: 0,
    }
}
