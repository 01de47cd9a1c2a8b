//! `load`: from an archive to stored images.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::files::{self, Files, sync_folder};
use super::records::{AttributesRecord, LayerRecord};
use super::{ImageRecord, LoadSource, Progress, Staging, Store, StoreError, collect};
use crate::archive::{self, Archive, ArchiveError, FoundImage, FoundLayer};
use crate::attributes::{self, AttributesError, StackLayer};
use crate::digest::Digest;
use crate::layer::notes::{FORMAT, Notes};
use crate::layer::{Compression, IngestError, LayerSource, Outputs, ingest};
use crate::limits::Limits;
use crate::reference::Reference;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The names it got; none if the archive has none.
    pub references: Vec<Reference>,
    /// The digest of its configuration.
    pub id: Digest,
}

/// Why nothing was loaded. An archive is loaded as a whole or not at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive or one of its documents is refused.
    #[error("failed to read the image archive")]
    Archive(#[source] ArchiveError),
    /// A layer is refused.
    #[error("failed to load layer {diff_id}")]
    Layer {
        /// The layer's diff-id, as the configuration states it.
        diff_id: Digest,
        /// What is wrong with it.
        #[source]
        source: IngestError,
    },
    /// The image's layers are fine one by one and cannot be put together.
    #[error("failed to combine the layers of image {id}")]
    Attributes {
        /// The image.
        id: Digest,
        /// What went wrong.
        #[source]
        source: AttributesError,
    },
    /// The store failed.
    #[error("failed to store the image")]
    Store(#[source] StoreError),
}

impl From<StoreError> for LoadError {
    fn from(error: StoreError) -> LoadError {
        LoadError::Store(error)
    }
}

/// A layer in the staging folder, checked and synced.
pub(super) struct StagedLayer {
    pub(super) diff_id: Digest,
    blob_digest: Digest,
    blob_bytes: u64,
    compression: Compression,
    blob: PathBuf,
    pub(super) image: PathBuf,
    notes_path: PathBuf,
    pub(super) notes: Notes,
}

impl Store {
    /// Loads all images of an archive. Blocking; takes as long as reading, checking and converting the layers does,
    /// without keeping others from the store until the very end.
    pub fn load(
        &self,
        source: LoadSource,
        limits: &Limits,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let staging = Staging::create(&self.files)?;
        let archive = archive::open(source, staging.path(), limits).map_err(LoadError::Archive)?;
        let images = archive::find_images(&archive, limits).map_err(LoadError::Archive)?;
        let plan = unique_layers(&images);
        let job = Job { store: &self.files, staging: &staging, archive: &archive, limits, progress };
        let layers = job.stage_layers(&plan)?;
        let mut prepared = Vec::with_capacity(images.len());
        for image in images {
            let own: Vec<&StagedLayer> = image
                .layers
                .iter()
                .filter_map(|layer| plan.iter().position(|other| same_layer(layer, other)))
                .map(|index| &layers[index])
                .collect();
            prepared.push(job.stage_image(image, &own)?);
        }
        let loaded = prepared
            .iter()
            .map(|image| LoadedImage { references: image.record.references.clone(), id: image.record.id });
        let loaded = loaded.collect();
        commit(&self.files, prepared, layers)?;
        Ok(loaded)
    }
}

fn same_layer(left: &FoundLayer, right: &FoundLayer) -> bool {
    left.diff_id == right.diff_id && left.digest == right.digest && left.member == right.member
}

fn unique_layers(images: &[FoundImage]) -> Vec<FoundLayer> {
    let mut plan: Vec<FoundLayer> = Vec::new();
    for layer in images.iter().flat_map(|image| &image.layers) {
        if !plan.iter().any(|other| same_layer(layer, other)) {
            plan.push(layer.clone());
        }
    }
    plan
}

/// What all steps of one load share.
struct Job<'a> {
    store: &'a Files,
    staging: &'a Staging,
    archive: &'a Archive,
    limits: &'a Limits,
    progress: &'a dyn Progress,
}

/// An image ready to be moved into the store.
struct PreparedImage {
    record: ImageRecord,
    /// Staged files and where they go.
    moves: Vec<(PathBuf, PathBuf)>,
}

impl Job<'_> {
    /// Stages layers, several at a time: each needs up to two processors. The first failure stops the rest.
    fn stage_layers(&self, plan: &[FoundLayer]) -> Result<Vec<StagedLayer>, LoadError> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<StagedLayer, LoadError>)>> = Mutex::new(Vec::new());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(plan.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let index = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(layer) = plan.get(index)
                    {
                        let result = self.stage_layer(index, plan.len(), layer);
                        if result.is_err() {
                            next.store(plan.len(), Ordering::Relaxed);
                        }
                        results.lock().unwrap_or_else(|poison| poison.into_inner()).push((index, result));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(|poison| poison.into_inner());
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn stage_layer(&self, index: usize, total: usize, layer: &FoundLayer) -> Result<StagedLayer, LoadError> {
        let image = self.staging.file(&format!("{index}.erofs"));
        let notes_path = self.staging.file(&format!("{index}.json"));
        let blob = self.staging.file(&format!("{index}.blob"));
        let known = self.pin_layer(layer, &image, &notes_path)?;
        let have_blob = match layer.digest {
            Some(digest) => pin(&self.store.blob_path(&digest), &blob)?,
            None => false,
        };
        if let (Some(notes), Some(blob_digest), Some(compression), true) =
            (&known, layer.digest, layer.compression, have_blob)
        {
            self.progress.layer(index, total, layer.size, layer.size);
            let (diff_id, blob_bytes, notes) = (layer.diff_id, layer.size, notes.clone());
            return Ok(StagedLayer {
                diff_id,
                blob_digest,
                blob_bytes,
                compression,
                blob,
                image,
                notes_path,
                notes,
            });
        }
        let mut blob_file = if have_blob { None } else { Some(create(&blob)?) };
        let mut image_file = if known.is_some() { None } else { Some(create(&image)?) };
        let missing = || ArchiveError::Missing(capsid_tar::EscapedName::new(layer.member.as_bytes()));
        let reader = self.archive.member(&layer.member).and_then(|member| member.ok_or_else(missing));
        let source = LayerSource {
            reader: Box::new(reader.map_err(LoadError::Archive)?),
            size: layer.size,
            digest: layer.digest,
            compression: layer.compression,
            diff_id: layer.diff_id,
        };
        let outputs =
            Outputs { blob: blob_file.as_mut(), image: image_file.as_mut(), scratch: self.staging.path() };
        let report = |done: u64| self.progress.layer(index, total, done.min(layer.size), layer.size);
        let ingested =
            ingest(source, outputs, self.limits, &report, &mut |text| self.progress.warning(&text))
                .map_err(|source| LoadError::Layer { diff_id: layer.diff_id, source })?;
        for (file, path) in [(&blob_file, &blob), (&image_file, &image)] {
            if let Some(file) = file {
                file.sync_data().map_err(StoreError::io("sync", path))?;
            }
        }
        let notes = match (known, ingested.notes) {
            (Some(notes), _) => notes,
            (None, notes) => {
                let notes = notes.unwrap_or_default();
                write_notes(&notes_path, &notes)?;
                notes
            }
        };
        Ok(StagedLayer {
            diff_id: layer.diff_id,
            blob_digest: ingested.blob_digest,
            blob_bytes: layer.size,
            compression: ingested.compression,
            blob,
            image,
            notes_path,
            notes,
        })
    }

    /// Takes part in a layer that the store has, so that nobody's removal can take it away from this load.
    fn pin_layer(&self, layer: &FoundLayer, image: &Path, notes: &Path) -> Result<Option<Notes>, StoreError> {
        if !pin(&self.store.layer_path(&layer.diff_id), image)? {
            return Ok(None);
        }
        if pin(&self.store.notes_path(&layer.diff_id), notes)? {
            let bytes = fs::read(notes).map_err(StoreError::io("read", notes))?;
            if let Ok(known) = serde_json::from_slice::<Notes>(&bytes)
                && known.format == FORMAT
            {
                return Ok(Some(known));
            }
            // Writing it anew must not write into the store's own.
            fs::remove_file(notes).map_err(StoreError::io("remove", notes))?;
        }
        fs::remove_file(image).map_err(StoreError::io("remove", image))?;
        Ok(None)
    }

    /// Stages an image's documents and describes it.
    fn stage_image(&self, image: FoundImage, layers: &[&StagedLayer]) -> Result<PreparedImage, LoadError> {
        let manifest = match image.manifest {
            Some(bytes) => bytes,
            None => made_up_manifest(image.id, image.config_bytes.len(), layers)?,
        };
        let manifest_digest = Digest::of(&manifest);
        let mut moves = Vec::new();
        for (digest, bytes) in [(image.id, &image.config_bytes), (manifest_digest, &manifest)] {
            let staged = self.staging.file(&format!("{}.document", digest.hex()));
            files::write_synced(&staged, bytes).map_err(StoreError::io("write", &staged))?;
            moves.push((staged, self.store.blob_path(&digest)));
        }
        let first = layers.iter().rposition(|layer| layer.notes.opaque_root).unwrap_or(0);
        let attributes = self.stage_attributes(image.id, &layers[first..], &mut moves)?;
        let record = ImageRecord {
            id: image.id,
            manifest: manifest_digest,
            references: image.references,
            created: image.created,
            layers: layers
                .iter()
                .map(|layer| LayerRecord {
                    diff_id: layer.diff_id,
                    blob: layer.blob_digest,
                    image_bytes: layer.notes.image_bytes,
                    content_bytes: layer.notes.content_bytes,
                })
                .collect(),
            first,
            attributes,
        };
        Ok(PreparedImage { record, moves })
    }
}

impl Job<'_> {
    /// Stages the top layer that repairs folders, if the stack needs one.
    fn stage_attributes(
        &self,
        id: Digest,
        layers: &[&StagedLayer],
        moves: &mut Vec<(PathBuf, PathBuf)>,
    ) -> Result<Option<AttributesRecord>, LoadError> {
        let failed = |source| LoadError::Attributes { id, source };
        let mut stack = Vec::with_capacity(layers.len());
        for layer in layers {
            let image = File::open(&layer.image).map_err(StoreError::io("open", &layer.image))?;
            stack.push(StackLayer { image, notes: &layer.notes });
        }
        let repairs = attributes::repairs(stack).map_err(failed)?;
        if repairs.is_empty() {
            return Ok(None);
        }
        let diff_ids: String = layers.iter().map(|layer| layer.diff_id.hex()).collect();
        let chain = Digest::of(diff_ids.as_bytes());
        let staged = self.staging.file(&format!("{}.attributes", chain.hex()));
        let mut file = create(&staged)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&chain.bytes()[..16]);
        let image_bytes = attributes::write(repairs, &mut file, self.staging.path(), uuid).map_err(failed)?;
        file.sync_data().map_err(StoreError::io("sync", &staged))?;
        moves.push((staged, self.store.attributes_path(&chain)));
        Ok(Some(AttributesRecord { chain, image_bytes }))
    }
}

/// Moves everything into place and makes it known.
fn commit(store: &Files, images: Vec<PreparedImage>, layers: Vec<StagedLayer>) -> Result<(), StoreError> {
    let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
    for layer in layers {
        // Notes first: a layer without them would not count as there.
        moves.push((layer.notes_path, store.notes_path(&layer.diff_id)));
        moves.push((layer.image, store.layer_path(&layer.diff_id)));
        moves.push((layer.blob, store.blob_path(&layer.blob_digest)));
    }
    let _lock = store.lock_exclusive()?;
    let mut records = store.read_records()?;
    let old = records.clone();
    for image in images {
        moves.extend(image.moves);
        records.add(image.record);
    }
    let result = moves
        .iter()
        .try_for_each(|(from, to)| fs::rename(from, to).map_err(StoreError::io("move into the store", to)))
        .and_then(|()| {
            [&store.blobs, &store.layers, &store.attributes]
                .into_iter()
                .try_for_each(|folder| sync_folder(folder))
        })
        .and_then(|()| store.write_records(&records));
    // A failure leaves the old list in force, so what was moved is garbage.
    let current = if result.is_ok() { &records } else { &old };
    let collected = collect::collect(store, current);
    result.and(collected)
}

/// Makes `own` another name of the store's file. False if the store has none.
fn pin(stored: &Path, own: &Path) -> Result<bool, StoreError> {
    match fs::hard_link(stored, own) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("link", stored)(error)),
    }
}

fn create(path: &Path) -> Result<File, StoreError> {
    files::create(path).map_err(StoreError::io("create", path))
}

fn write_notes(path: &Path, notes: &Notes) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(notes).map_err(io::Error::from).map_err(StoreError::io("write", path))?;
    files::write_synced(path, &bytes).map_err(StoreError::io("write", path))
}

/// A docker archive has no manifest; its image gets one, so that it can be pushed like any other.
fn made_up_manifest(id: Digest, config_bytes: usize, layers: &[&StagedLayer]) -> Result<Vec<u8>, StoreError> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let suffix = match layer.compression {
                Compression::Plain => "",
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
            };
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": layer.blob_digest,
                "size": layer.blob_bytes,
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": id,
            "size": config_bytes,
        },
        "layers": layers,
    });
    serde_json::to_vec(&manifest)
        .map_err(io::Error::from)
        .map_err(StoreError::io("write", Path::new("a manifest")))
}
