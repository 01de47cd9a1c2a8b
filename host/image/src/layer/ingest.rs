//! One layer's way from an archive into staged files, on two threads.
//!
//! ```text
//! this crate's thread:  read ─ sha256 ─ copy to the blob ─ decompress ──channel──▶ the caller's thread:
//!                                                                  sha256 ─ tar ─ EROFS
//! ```
//!
//! Decompression costs about as much as everything behind it, so the cut is there. Nothing is trusted until both
//! ends are done: the blob's size and digest and the stream's diff-id are compared last, and a failure of any
//! leaves files that the caller throws away.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::compression::Compression;
use super::notes::Notes;
use super::{LayerError, convert};
use crate::digest::{Digest, Hasher};
use crate::erofs::ErofsError;
use crate::limits::Limits;
use capsid_tar::TarInput;

/// How much is read, hashed and handed on at once.
const PIECE: usize = 256 << 10;
/// How many pieces may wait between the two threads.
const QUEUE: usize = 8;

/// Where a layer comes from and what is claimed about it.
pub(crate) struct LayerSource<'a> {
    pub(crate) reader: Box<dyn Read + Send + 'a>,
    /// The blob's size in bytes.
    pub(crate) size: u64,
    /// The blob's digest, if the archive states one.
    pub(crate) digest: Option<Digest>,
    /// What the media type says, if there is one.
    pub(crate) compression: Option<Compression>,
    /// The tar stream's digest, from the configuration.
    pub(crate) diff_id: Digest,
}

/// Where a layer goes; either may be there already.
pub(crate) struct Outputs<'a> {
    pub(crate) blob: Option<&'a mut File>,
    pub(crate) image: Option<&'a mut File>,
    /// A folder for unnamed temporary files.
    pub(crate) scratch: &'a Path,
}

/// What an ingested layer turned out to be.
#[derive(Debug)]
pub(crate) struct Ingested {
    pub(crate) blob_digest: Digest,
    pub(crate) compression: Compression,
    /// Present if an image was asked for.
    pub(crate) notes: Option<Notes>,
}

/// Why a layer was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The archive could not be read.
    #[error("failed to read the layer's blob")]
    Read(#[source] io::Error),
    /// The blob could not be stored.
    #[error("failed to store the layer's blob")]
    Store(#[source] io::Error),
    /// The compressed data is damaged, or something follows it.
    #[error("failed to decompress the layer, which is {compression}")]
    Decompress {
        /// How it is compressed.
        compression: Compression,
        /// What the decompressor says.
        #[source]
        source: io::Error,
    },
    /// The media type and the content disagree.
    #[error("the layer's media type says {stated}, but its content is {found}")]
    MediaType {
        /// What the manifest says.
        stated: Compression,
        /// What the first bytes say.
        found: Compression,
    },
    /// The blob is not as long as stated.
    #[error("the layer's blob has {found} bytes instead of {stated}")]
    Size {
        /// What the manifest says.
        stated: u64,
        /// What was read.
        found: u64,
    },
    /// The blob's digest is not the stated one.
    #[error("the layer's blob has digest {found} instead of {stated}")]
    BlobDigest {
        /// What the manifest says.
        stated: Digest,
        /// What was read.
        found: Digest,
    },
    /// The tar stream's digest is not the stated one.
    #[error("the layer's tar stream has digest {found} instead of the diff-id {stated}")]
    DiffId {
        /// What the configuration says.
        stated: Digest,
        /// What was read.
        found: Digest,
    },
    /// The tar stream is larger than the limit.
    #[error("the layer is larger than {0} bytes (limit max-layer-bytes)")]
    TooLarge(u64),
    /// The tar stream is suspiciously much larger than the blob.
    #[error("the layer decompresses to more than {0} times its size (limits max-ratio, ratio-floor)")]
    Ratio(u64),
    /// The tar stream is refused.
    #[error("the layer cannot be converted")]
    Layer(#[source] LayerError),
    /// The image could not be completed.
    #[error("failed to complete the layer's image")]
    Finish(#[source] ErofsError),
}

/// Reads, checks and converts one layer. Blocking. `progress` gets the compressed bytes read so far.
pub(crate) fn ingest(
    source: LayerSource<'_>,
    outputs: Outputs<'_>,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
    warn: &mut dyn FnMut(String),
) -> Result<Ingested, IngestError> {
    let Outputs { blob, image, scratch } = outputs;
    let claims = Claims { size: source.size, digest: source.digest, diff_id: source.diff_id };
    let stated = source.compression;
    let tee = Tee { input: source.reader, blob, hasher: Hasher::default(), failure: None, progress };
    let mut input = BufReader::with_capacity(PIECE, tee.with_limit(source.size));
    let head = input.fill_buf().map_err(IngestError::Read)?;
    let compression = Compression::detect(head);
    if let Some(stated) = stated.filter(|stated| *stated != compression) {
        return Err(IngestError::MediaType { stated, found: compression });
    }
    let Some(image) = image else {
        let copied = io::copy(&mut input, &mut io::sink());
        let tee = input.into_inner().into_inner();
        if tee.failure.is_none() {
            copied.map_err(IngestError::Read)?;
        }
        let blob_digest = claims.check_blob(tee)?;
        return Ok(Ingested { blob_digest, compression, notes: None });
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE);
        let producer = scope.spawn(move || decompress(input, compression, limits, &sender));
        let mut pieces = Pieces { receiver, piece: Vec::new(), used: 0, hasher: Hasher::default() };
        let converted = convert(&mut pieces, image, scratch, limits, warn);
        let (diff_id, tar_bytes) = pieces.close();
        // A panic over there is a bug; it must not look like a damaged layer.
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // If both failed, the first cause is over there: here the stream only seemed to end.
        let tee = produced?;
        let converted = converted.map_err(IngestError::Layer)?;
        let blob_digest = claims.check_blob(tee)?;
        if diff_id != claims.diff_id {
            return Err(IngestError::DiffId { stated: claims.diff_id, found: diff_id });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&diff_id.bytes()[..16]);
        let (_, mut notes) = converted.finish(uuid).map_err(IngestError::Finish)?;
        notes.tar_bytes = tar_bytes;
        Ok(Ingested { blob_digest, compression, notes: Some(notes) })
    })
}

/// What was said about a layer.
struct Claims {
    size: u64,
    digest: Option<Digest>,
    diff_id: Digest,
}

impl Claims {
    fn check_blob(&self, tee: Tee<'_>) -> Result<Digest, IngestError> {
        if let Some(error) = tee.failure {
            return Err(IngestError::Store(error));
        }
        let (found, length) = tee.hasher.finish();
        if length != self.size {
            return Err(IngestError::Size { stated: self.size, found: length });
        }
        match self.digest {
            Some(stated) if stated != found => Err(IngestError::BlobDigest { stated, found }),
            _ => Ok(found),
        }
    }
}

/// Passes the blob on, and hashes, counts and copies what passes.
struct Tee<'a> {
    input: Box<dyn Read + Send + 'a>,
    blob: Option<&'a mut File>,
    hasher: Hasher,
    /// A failure to write, which must not be taken for one to read.
    failure: Option<io::Error>,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Tee<'a> {
    /// One byte more than stated is read, which is enough to know that there is more.
    fn with_limit(self, size: u64) -> io::Take<Tee<'a>> {
        self.take(size.saturating_add(1))
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        let bytes = &buffer[..count];
        self.hasher.update(bytes);
        if let Some(blob) = &mut self.blob
            && let Err(error) = blob.write_all(bytes)
        {
            self.failure = Some(error);
            return Err(io::ErrorKind::WriteZero.into());
        }
        (self.progress)(self.hasher.length());
        Ok(count)
    }
}

/// The first thread's work. Ends early without an error when nobody listens any more.
fn decompress<'a>(
    input: BufReader<io::Take<Tee<'a>>>,
    compression: Compression,
    limits: &Limits,
    sender: &SyncSender<Vec<u8>>,
) -> Result<Tee<'a>, IngestError> {
    let mut input = input;
    let mut total = 0u64;
    let result = pump(&mut input, compression, limits, sender, &mut total);
    let tee = input.into_inner().into_inner();
    if let Some(error) = tee.failure {
        return Err(IngestError::Store(error));
    }
    result.map(|()| tee)
}

fn pump(
    input: &mut BufReader<io::Take<Tee<'_>>>,
    compression: Compression,
    limits: &Limits,
    sender: &SyncSender<Vec<u8>>,
    total: &mut u64,
) -> Result<(), IngestError> {
    let failed = |source| IngestError::Decompress { compression, source };
    let counter = std::cell::Cell::new(0u64);
    let counted = Counted { input, count: &counter };
    let mut decoder = compression.decoder(counted).map_err(failed)?;
    loop {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match decoder.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        *total += filled as u64;
        if *total > limits.max_layer_bytes {
            return Err(IngestError::TooLarge(limits.max_layer_bytes));
        }
        if *total > limits.ratio_floor && *total / limits.max_ratio.max(1) > counter.get() {
            return Err(IngestError::Ratio(limits.max_ratio));
        }
        piece.truncate(filled);
        if filled == 0 || sender.send(piece).is_err() {
            return Ok(());
        }
    }
}

/// Counts what the decompressor took, for the ratio.
struct Counted<'a, R> {
    input: R,
    count: &'a std::cell::Cell<u64>,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.count.set(self.count.get() + count as u64);
        self.input.consume(count);
    }
}

/// The second thread's input: pieces from the channel, hashed as they arrive.
struct Pieces {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
    hasher: Hasher,
}

impl Pieces {
    /// Hangs up, so that the other thread ends, and tells the digest of what came.
    fn close(self) -> (Digest, u64) {
        self.hasher.finish()
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece.len() {
            self.used = 0;
            // A closed channel is the end; the other thread says whether it is a good one.
            self.piece = self.receiver.recv().unwrap_or_default();
            self.hasher.update(&self.piece);
        }
        Ok(&self.piece[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.piece.len());
    }
}

impl TarInput for &mut Pieces {}
