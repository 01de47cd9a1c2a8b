//! EROFS images, written in one pass.
//!
//! Layout of what [`ErofsWriter`] makes, in blocks of 4096 bytes:
//!
//! ```text
//! block 0            1024 unused bytes, superblock, zeros
//! file data          in the order it streamed in: whole blocks, holes left out
//! folder data        the full blocks of large folders
//! metadata area      64 reserved bytes, root inode, all other inodes, each followed by its extended attributes
//!                    and its inline tail or its list of chunks
//! ```
//!
//! Data comes before metadata because inodes are only known once the stream has ended; `meta_blkaddr` points
//! behind the data. The root inode stands first there because its number has 16 bits in the superblock.
//! Format: Linux's `fs/erofs/erofs_fs.h` and <https://erofs.docs.kernel.org/en/latest/core_ondisk.html>.
//!
//! Nothing in here knows about OCI or the host's file system. [`crate::layer`] writes, [`crate::attributes`] and
//! the tests read.

mod checksum;
mod data;
mod directory;
pub(crate) mod reader;
mod tails;
#[cfg(test)]
mod tests;
mod tree;
mod writer;
mod xattr;

use std::io;

pub(crate) use data::FileData;
pub use reader::ErofsReadError;
pub(crate) use tree::{Attributes, Content, NodeId, ROOT, Tree};
pub(crate) use writer::{ErofsWriter, inline_room, xattr_size};
pub use xattr::XattrProblem;
pub(crate) use xattr::{encode_entries, encode_entry};

/// The only block size used; also the page size of every guest.
pub(crate) const BLOCK: u64 = 4096;
/// The same for lengths in memory.
const BLOCK_SIZE: usize = 4096;
/// `EROFS_SUPER_OFFSET`.
const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xE0F5_E1E2;
/// log2 of the block size.
const BLOCK_BITS: u8 = 12;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the superblock's checksum is valid.
const COMPAT_CHECKSUM: u32 = 0x1;
/// `EROFS_FEATURE_COMPAT_MTIME`: inode times are modification times.
const COMPAT_MTIME: u32 = 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`: some files are chunk-based.
const INCOMPAT_CHUNKED: u32 = 0x4;
/// Inode numbers count slots of this many bytes from the start of the metadata area (`islotbits` 5).
const SLOT: u64 = 32;
/// An extended inode.
const INODE_SIZE: u64 = 64;
/// The same for lengths in memory.
const INODE_BYTES: usize = 64;
/// Bytes before the root inode, so that no inode has number 0, which user space takes for a deleted entry.
const META_RESERVED: u64 = 64;
/// `i_format` bit 0: extended inode.
const FORMAT_EXTENDED: u16 = 1;
/// Data layouts, bits 1 to 3 of `i_format`.
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKED: u16 = 4;
/// `EROFS_NULL_ADDR`: a chunk that is a hole.
const NULL_BLOCK: u32 = u32::MAX;
/// `struct erofs_dirent`.
const DIRENT_SIZE: usize = 12;
/// `struct erofs_xattr_ibody_header`.
const XATTR_HEADER: usize = 12;
/// `struct erofs_xattr_entry`.
const XATTR_ENTRY: usize = 4;
/// File type bits of `st_mode`.
const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFREG: u16 = 0o100_000;
const S_IFLNK: u16 = 0o120_000;

/// Why an EROFS image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The image file or the scratch file could not be written.
    #[error("failed to write the file system image")]
    Write(#[source] io::Error),
    /// The scratch file could not be read back.
    #[error("failed to read back the tails of files")]
    Tails(#[source] io::Error),
    /// One file is larger than the format's lists of chunks can say.
    #[error("a file of {0} bytes is too large")]
    FileTooLarge(u64),
    /// All files together are larger than 32-bit block numbers can say.
    #[error("the file system image would be larger than 16 TiB")]
    ImageTooLarge,
    /// Names, link targets, attributes and block lists together exceed the limit on memory.
    #[error("names and attributes take more than {0} bytes (limit max-metadata-bytes)")]
    MetadataLimit(u64),
    /// There are more inodes than 32-bit numbers.
    #[error("too many inodes")]
    TooManyInodes,
}

/// `a` rounded up to a multiple of `to`, which is a power of two.
fn round_up(a: u64, to: u64) -> u64 {
    a.div_ceil(to) * to
}
