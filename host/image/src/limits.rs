//! What an image may cost before it is refused.
//!
//! Images come from strangers. Each limit is far above what honest images need, and each can be raised by
//! whoever has the odd one. Nothing in this crate allocates by a number it read before one of these is checked.

/// Bounds on one image and its layers; [`Limits::default`] is what `capsid load` uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one layer's tar stream.
    pub max_entries: u64,
    /// Bytes of an entry's path, as Linux's PATH_MAX without its NUL.
    pub max_path: usize,
    /// Folders on the way to an entry.
    pub max_depth: usize,
    /// Bytes of one layer's tar stream, decompressed.
    pub max_layer_bytes: u64,
    /// How many times larger than its compressed form a layer may be, once it is past [`Limits::ratio_floor`].
    pub max_ratio: u64,
    /// Layers smaller than this are not held to [`Limits::max_ratio`]: a sparse file alone compresses 1000:1.
    pub ratio_floor: u64,
    /// Bytes of the names and values of one entry's extended attributes together.
    pub max_xattr_bytes: usize,
    /// Bytes of names, link targets, extended attributes and block lists that one layer may have in memory.
    pub max_metadata_bytes: u64,
    /// Bytes of one PAX extended header or GNU long name.
    pub max_extension_bytes: u64,
    /// Bytes of an index, a manifest or a configuration.
    pub max_document_bytes: u64,
    /// Layers of an image.
    pub max_layers: usize,
    /// Images in one archive, counted over nested indexes.
    pub max_images: usize,
    /// Members of the archive itself.
    pub max_archive_entries: u64,
    /// Bytes of the archive itself, decompressed; bounds what a stream may spool to disk.
    pub max_archive_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_entries: 1_000_000,
            max_path: 4095,
            max_depth: 1024,
            max_layer_bytes: 256 << 30,
            max_ratio: 200,
            ratio_floor: 8 << 30,
            max_xattr_bytes: 128 << 10,
            max_metadata_bytes: 512 << 20,
            max_extension_bytes: 1 << 20,
            max_document_bytes: 4 << 20,
            max_layers: 127,
            max_images: 1000,
            max_archive_entries: 100_000,
            max_archive_bytes: 512 << 30,
        }
    }
}
