//! What an image may cost before it is refused.
//!
//! Images come from strangers. Each limit is far above what honest images need, and each can be raised by
//! whoever has the odd one, by the name that a refusal gives: [`Limits::set`]. Nothing in this crate allocates by a number it read before one of these is checked.

use capsid_tar::TarLimits;

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

/// What is not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// No limit is called so.
    #[error("there is no limit '{0}'")]
    Name(String),
    /// It is not a number, or larger than the limit can be.
    #[error("'{value}' is no value for the limit {name}")]
    Value {
        /// The limit.
        name: String,
        /// What it was to be.
        value: String,
    },
}

impl Limits {
    /// Those that bound the reading of a tar stream.
    pub(crate) fn tar(&self) -> TarLimits {
        TarLimits { max_extension_bytes: self.max_extension_bytes, max_xattr_bytes: self.max_xattr_bytes }
    }

    /// Sets the limit that a refusal names, such as `max-entries`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), LimitError> {
        let wrong = || LimitError::Value { name: name.to_owned(), value: value.to_owned() };
        let number: u64 = value.parse().map_err(|_| wrong())?;
        let size = usize::try_from(number).map_err(|_| wrong());
        match name {
            "max-entries" => self.max_entries = number,
            "max-path" => self.max_path = size?,
            "max-depth" => self.max_depth = size?,
            "max-layer-bytes" => self.max_layer_bytes = number,
            "max-ratio" => self.max_ratio = number,
            "ratio-floor" => self.ratio_floor = number,
            "max-xattr-bytes" => self.max_xattr_bytes = size?,
            "max-metadata-bytes" => self.max_metadata_bytes = number,
            "max-extension-bytes" => self.max_extension_bytes = number,
            "max-document-bytes" => self.max_document_bytes = number,
            "max-layers" => self.max_layers = size?,
            "max-images" => self.max_images = size?,
            "max-archive-entries" => self.max_archive_entries = number,
            "max-archive-bytes" => self.max_archive_bytes = number,
            _ => return Err(LimitError::Name(name.to_owned())),
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_entries: 500_000,
            max_path: 4095,
            max_depth: 1024,
            max_layer_bytes: 256 << 30,
            max_ratio: 200,
            ratio_floor: 2 << 30,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_the_names_that_refusals_give() {
        let mut limits = Limits::default();
        limits.set("max-entries", "7").unwrap();
        limits.set("max-layers", "3").unwrap();
        assert_eq!((limits.max_entries, limits.max_layers), (7, 3));
        assert_eq!(limits.set("max-wings", "7"), Err(LimitError::Name("max-wings".into())));
        assert!(matches!(limits.set("max-path", "-1"), Err(LimitError::Value { .. })));
    }
}
