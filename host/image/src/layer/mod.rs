//! From one layer's tar stream to one EROFS image for overlayfs.
//!
//! [`builder`] applies OCI's rules to the entries, one after another; [`ingest`] runs it behind decompression and
//! checks every digest and size. Nothing is unpacked onto the host, so no name in a layer can lead anywhere:
//! the tree exists in memory only, and names are resolved in it without following links.

mod builder;
mod compression;
mod ingest;
pub(crate) mod notes;
mod path;
#[cfg(test)]
mod tests;

pub(crate) use builder::convert;
pub use compression::Compression;
pub use ingest::IngestError;
pub(crate) use ingest::{LayerSource, Outputs, ingest};

use crate::erofs::{ErofsError, XattrProblem};
use capsid_tar::EscapedName;
use capsid_tar::TarError;

/// Why a layer is refused or could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The tar stream is damaged or breaks a rule of its format.
    #[error("the layer's tar stream is refused")]
    Tar(#[source] TarError),
    /// An entry asks for something that is not allowed.
    #[error("entry {entry}: {problem}")]
    Entry {
        /// The entry's name as the layer gives it.
        entry: EscapedName,
        /// What is wrong with it.
        problem: LayerProblem,
    },
    /// There are more entries than the limit.
    #[error("the layer has more than {limit} entries (limit max-entries), at {entry}")]
    TooManyEntries {
        /// The limit.
        limit: u64,
        /// The first entry over it.
        entry: EscapedName,
    },
    /// The image file could not be written, or would break a limit.
    #[error("failed to convert the layer at entry {entry}")]
    Write {
        /// The last entry seen.
        entry: EscapedName,
        /// What went wrong.
        #[source]
        source: ErofsError,
    },
}

/// What is wrong with an entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerProblem {
    /// The name is empty.
    #[error("the name is empty")]
    EmptyName,
    /// The name has a NUL byte.
    #[error("the name has a NUL byte")]
    Nul,
    /// One component of the name is too long.
    #[error("a component of {0} bytes is longer than 255")]
    NameTooLong(usize),
    /// The whole name is too long.
    #[error("the path of {length} bytes is longer than {limit} (limit max-path)")]
    PathTooLong {
        /// Its length.
        length: usize,
        /// The limit it breaks.
        limit: usize,
    },
    /// The name has too many components.
    #[error("the path has {depth} components, more than {limit} (limit max-depth)")]
    TooDeep {
        /// Its components.
        depth: usize,
        /// The limit it breaks.
        limit: usize,
    },
    /// The name has a `..`.
    #[error("\"..\" is not allowed in a layer")]
    ParentComponent,
    /// Something on the way to the entry is a file, a link or a device in the same layer.
    #[error("its parent {0} is not a directory in this layer")]
    ParentNotDirectory(EscapedName),
    /// A whiteout names nothing, `.` or `..`, or something below one.
    #[error("the whiteout is malformed")]
    Whiteout,
    /// The root is described as something other than a folder.
    #[error("the root must be a directory")]
    RootNotDirectory,
    /// A hard link's target has a malformed name.
    #[error("hard link to {target}: {problem}")]
    HardLinkName {
        /// The target as the layer gives it.
        target: EscapedName,
        /// What is wrong with it.
        problem: Box<LayerProblem>,
    },
    /// A hard link's target is not there, or not there yet.
    #[error("hard link to {0}, which no earlier entry of this layer provides")]
    HardLinkMissing(EscapedName),
    /// A hard link's target is a folder.
    #[error("hard link to the directory {0}")]
    HardLinkDirectory(EscapedName),
    /// A symbolic link's target is empty, too long or has a NUL byte.
    #[error("the symbolic link's target is empty, has a NUL byte or is longer than 4095 bytes")]
    SymlinkTarget,
    /// The owner or group is no 32-bit id.
    #[error("owner {uid}:{gid} is out of range")]
    Owner {
        /// The user.
        uid: u64,
        /// The group.
        gid: u64,
    },
    /// The device number does not fit Linux's 12 and 20 bits.
    #[error("device number {major}:{minor} is out of range")]
    Device {
        /// The major number.
        major: u64,
        /// The minor number.
        minor: u64,
    },
    /// An extended attribute cannot be stored.
    #[error("{name}: {problem}")]
    Xattr {
        /// The attribute.
        name: EscapedName,
        /// What is wrong with it.
        problem: XattrProblem,
    },
    /// The attributes take more room than an inode can have.
    #[error("its extended attributes take more than {0} bytes (limit max-xattr-bytes)")]
    XattrsTooLarge(usize),
}
