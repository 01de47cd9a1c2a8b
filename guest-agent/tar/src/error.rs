//! Why a tar stream is refused. Every message that has an entry names it, escaped.

use std::io;

use crate::escape::EscapedName;

/// What ended the reading of a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes under the tar stream could not be read; includes damaged compression.
    #[error("failed to read the tar stream")]
    Read(#[source] io::Error),
    /// The stream stopped inside a header or inside an entry's data.
    #[error("the tar stream ends too early, at byte {offset}")]
    Truncated {
        /// Where the stream stopped.
        offset: u64,
    },
    /// A header is damaged, or there is something else where a header should be.
    #[error("bad tar header at byte {offset}: {problem}")]
    Header {
        /// Where the header starts.
        offset: u64,
        /// What is wrong with it.
        problem: HeaderProblem,
    },
    /// A readable header asks for something that is not allowed.
    #[error("entry {entry}: {problem}")]
    Entry {
        /// The entry's name as the stream gives it.
        entry: EscapedName,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// Something follows the end of the archive.
    #[error("bytes other than zero follow the end of the tar stream, at byte {offset}")]
    TrailingGarbage {
        /// Where the first such block starts.
        offset: u64,
    },
}

/// What is wrong with a header that cannot be tied to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// The sum of the bytes is not the sum that the header states.
    #[error("its checksum does not match")]
    Checksum,
    /// A numeric field is neither octal nor base-256, or does not fit.
    #[error("the {0} field is not a number in range")]
    Number(&'static str),
    /// A single block of zeros stands between entries.
    #[error("it follows a block of zeros")]
    AfterZeroBlock,
    /// A PAX record breaks the `LENGTH KEY=VALUE` form.
    #[error("a PAX record is malformed")]
    PaxRecord,
    /// An extended header has no entry behind it.
    #[error("an extended header has no entry behind it")]
    Dangling,
    /// An extended header is larger than the limit.
    #[error("an extended header has {size} bytes, more than {limit} (limit max-extension-bytes)")]
    ExtensionTooLarge {
        /// Its stated size.
        size: u64,
        /// The limit it breaks.
        limit: u64,
    },
    /// Two extended headers of one kind stand before one entry, or two that give the same name.
    #[error("two extended headers contradict each other")]
    Contradiction,
    /// A global PAX header sets something that readers disagree about.
    #[error("a global PAX header sets {0}")]
    Global(&'static str),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// Two places state two sizes: one reader would see entries inside what another takes for data.
    #[error("its PAX header gives {pax} bytes and its tar header {header}")]
    SizeMismatch {
        /// The size from the extended header.
        pax: u64,
        /// The size from the header block.
        header: u64,
    },
    /// A link, folder, device or pipe says that data follows.
    #[error("{0} bytes of data follow an entry that can have none")]
    UnexpectedData(u64),
    /// The type is not one that images use.
    #[error("entry type {:?} is not supported", char::from(*.0).escape_default().to_string())]
    Type(u8),
    /// A PAX value is malformed or out of range.
    #[error("its PAX {0} value is malformed or out of range")]
    Value(&'static str),
    /// The map of a sparse file is malformed.
    #[error("its sparse map is malformed")]
    SparseMap,
    /// The extended attributes are larger than the limit.
    #[error("its extended attributes take {size} bytes, more than {limit} (limit max-xattr-bytes)")]
    XattrsTooLarge {
        /// Their size.
        size: usize,
        /// The limit they break.
        limit: usize,
    },
}
