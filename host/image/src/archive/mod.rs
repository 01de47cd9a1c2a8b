//! The archive or folder that an image comes in: members by name, read in place.
//!
//! [`Archive`] only finds bytes. [`oci`] and [`docker`] know what the members mean. Nothing read here is trusted:
//! whoever uses a member checks its size and digest.

mod docker;
mod find;
mod oci;
mod open;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

pub(crate) use find::{FoundImage, FoundLayer, find_images};
pub(crate) use open::open;

use crate::digest::{Digest, DigestError};
use crate::reference::ReferenceError;
use capsid_tar::EscapedName;
use capsid_tar::TarError;

/// How many links inside an archive may lead to a member: old `docker save` links equal layers to each other.
const MAX_LINKS: usize = 4;

/// Where members are looked up.
pub(crate) enum Archive {
    /// An OCI layout or an unpacked `docker save`.
    Folder(PathBuf),
    /// A tar archive in a file that can be read at any place.
    Tar(TarArchive),
}

/// A tar archive, its headers read.
pub(crate) struct TarArchive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
}

enum Member {
    Data {
        offset: u64,
        size: u64,
    },
    /// A link to another member, by the name it leads to.
    Link(Vec<u8>),
}

/// One member's bytes.
pub(crate) struct MemberReader {
    file: File,
    offset: u64,
    left: u64,
}

impl MemberReader {
    /// Bytes from here to the member's end.
    pub(crate) fn size(&self) -> u64 {
        self.left
    }
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..limit], self.offset)?;
        if count == 0 && limit > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Archive {
    /// A member that is a regular file, if there is one of that name.
    pub(crate) fn member(&self, name: &str) -> Result<Option<MemberReader>, ArchiveError> {
        let failed = |source| ArchiveError::Read { member: EscapedName::new(name.as_bytes()), source };
        match self {
            Archive::Folder(folder) => {
                if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
                    return Ok(None);
                }
                // A layout made by somebody else must not lead this process to other files.
                let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
                let mut options = File::options();
                options.read(true).custom_flags(flags.bits().cast_signed());
                let file = match options.open(folder.join(name)) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(error)),
                };
                let metadata = file.metadata().map_err(failed)?;
                Ok(metadata.is_file().then(|| MemberReader { file, offset: 0, left: metadata.len() }))
            }
            Archive::Tar(archive) => {
                let mut name = name.as_bytes();
                for _ in 0..MAX_LINKS {
                    match archive.members.get(name) {
                        Some(Member::Link(target)) => name = target,
                        Some(&Member::Data { offset, size }) => {
                            let file = archive.file.try_clone().map_err(failed)?;
                            return Ok(Some(MemberReader { file, offset, left: size }));
                        }
                        None => break,
                    }
                }
                Ok(None)
            }
        }
    }

    /// A small member's bytes, at most `limit`.
    pub(crate) fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(mut reader) = self.member(name)? else { return Ok(None) };
        let member = || EscapedName::new(name.as_bytes());
        if reader.size() > limit {
            return Err(ArchiveError::DocumentTooLarge { member: member(), size: reader.size(), limit });
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|source| ArchiveError::Read { member: member(), source })?;
        Ok(Some(bytes))
    }
}

/// Why an archive or one of the images in it is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The source could not be opened.
    #[error("failed to open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// A stream could not be brought to disk.
    #[error("failed to store the archive")]
    Spool(#[source] io::Error),
    /// The archive's own compression is damaged.
    #[error("failed to decompress the archive")]
    Decompress(#[source] io::Error),
    /// The archive is larger than the limit.
    #[error("the archive is larger than {0} bytes (limit max-archive-bytes)")]
    TooLarge(u64),
    /// The archive is no readable tar archive.
    #[error("the archive is refused")]
    Tar(#[source] TarError),
    /// The archive has more members than the limit.
    #[error("the archive has more than {0} members (limit max-archive-entries)")]
    TooManyMembers(u64),
    /// Two members have one name, so that readers would disagree about the image.
    #[error("the archive has two members named {0}")]
    Duplicate(EscapedName),
    /// A member could not be read.
    #[error("failed to read {member}")]
    Read {
        /// The member.
        member: EscapedName,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The source is not an image.
    #[error("neither an OCI image (index.json) nor a docker archive (manifest.json)")]
    NotAnImage,
    /// A member that is needed is missing.
    #[error("{0} is missing")]
    Missing(EscapedName),
    /// An index, manifest or configuration is larger than the limit.
    #[error("{member} has {size} bytes, more than {limit} (limit max-document-bytes)")]
    DocumentTooLarge {
        /// The member.
        member: EscapedName,
        /// Its size.
        size: u64,
        /// The limit it breaks.
        limit: u64,
    },
    /// An index, manifest or configuration cannot be parsed.
    #[error("{member} is malformed")]
    Malformed {
        /// The member.
        member: EscapedName,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration is not what OCI requires.
    #[error("configuration {0} is malformed")]
    Configuration(Digest, #[source] oci_spec::OciSpecError),
    /// A digest is malformed or of another algorithm.
    #[error("{member} has an unusable digest")]
    Digest {
        /// Where it was found.
        member: EscapedName,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// A member's content is not what its name says.
    #[error("{member} has digest {found}")]
    WrongDigest {
        /// The member.
        member: EscapedName,
        /// What its content has.
        found: Digest,
    },
    /// A member is not as long as stated.
    #[error("{member} has {found} bytes instead of {stated}")]
    WrongSize {
        /// The member.
        member: EscapedName,
        /// What the descriptor says.
        stated: u64,
        /// What the archive has.
        found: u64,
    },
    /// An image's name is no reference.
    #[error("an image has an unusable name")]
    Name(#[source] ReferenceError),
    /// A descriptor has a media type that is not one of an image.
    #[error("media type {0} is not supported")]
    MediaType(EscapedName),
    /// A layer is to be fetched from an address.
    #[error("layer {0} is to be downloaded from an address in the manifest, which is not supported")]
    ForeignLayer(Digest),
    /// An image has no layers.
    #[error("image {0} has no layers")]
    NoLayers(Digest),
    /// An image has more layers than the limit.
    #[error("image {id} has {found} layers, more than {limit} (limit max-layers)")]
    TooManyLayers {
        /// The image.
        id: Digest,
        /// Its layers.
        found: usize,
        /// The limit it breaks.
        limit: usize,
    },
    /// The manifest and the configuration disagree about the number of layers.
    #[error("image {id} has {layers} layers in its manifest and {diff_ids} in its configuration")]
    LayerCount {
        /// The image.
        id: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
    /// None of an index's images runs on this machine.
    #[error("no image for {wanted} in the archive; it has {found}")]
    Platform {
        /// What is needed.
        wanted: String,
        /// What there is.
        found: EscapedName,
    },
    /// Indexes refer to each other too deeply.
    #[error("indexes are nested too deeply")]
    IndexDepth,
    /// There are more images than the limit.
    #[error("the archive has more than {0} images (limit max-images)")]
    TooManyImages(usize),
    /// The archive has no image at all.
    #[error("the archive has no image")]
    Empty,
}
