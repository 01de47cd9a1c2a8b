//! Images: from archives and layouts to verified, content-addressed EROFS layers.
//!
//! [`Store::load`] takes an archive in, [`Store::resolve`] finds an image again, and [`Image::open_layers`] hands
//! out its layers as read-only block images, bottom first, for overlayfs to stack. This crate knows nothing of
//! virtual machines, never mounts or unpacks anything on the host, and needs no privileges.
//!
//! Images come from strangers: see [`Limits`] for what they may cost, and `capsid_tar` and `layer` for what is refused.

#![forbid(unsafe_code)]

mod archive;
mod attributes;
mod digest;
mod erofs;
mod layer;
mod limits;
mod reference;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use archive::ArchiveError;
pub use attributes::AttributesError;
pub use capsid_tar::{EntryProblem, EscapedName, HeaderProblem, TarError};
pub use digest::{Digest, DigestError};
pub use erofs::{ErofsError, ErofsReadError, XattrProblem};
pub use layer::{Compression, IngestError, LayerError, LayerProblem};
pub use limits::{LimitError, Limits};
pub use reference::{Reference, ReferenceError};
pub use store::{
    Hold, Image, ImageSummary, ImageUsage, ImageUse, Layer, LoadError, LoadSource, LoadedImage, Progress,
    RemoveError, RemoveOptions, Removed, ResolveError, SaveError, Saved, Store, StoreError, TagError, Usage,
};
