//! Tar streams: a reader for those of strangers, and a writer whose archives look as Docker's do.
//!
//! Used on both sides of a machine's wall, for the layers of images on the host and for the files of containers in
//! the guest. Depends on neither side, never touches a file system, and resolves no path: names are bytes that mean
//! nothing here.

#![forbid(unsafe_code)]

mod entry;
mod error;
mod escape;
mod header;
mod pax;
mod reader;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use entry::{Entry, EntryKind, Timestamp, Xattr};
pub use error::{EntryProblem, HeaderProblem, TarError};
pub use escape::EscapedName;
pub use reader::{Extent, SparseMap, TarInput, TarLimits, TarReader};
pub use writer::TarWriter;
