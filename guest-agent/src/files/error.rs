//! Why work on files was not done.

use std::io;

use capsid_protocol::{ErrorCode, Refusal};
use capsid_tar::{EscapedName, TarError};
use rustix::io::Errno;

use crate::error::{chain, refusal};

/// Why work on files was not done. The words are those of Docker's daemon where it has some.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// There is nothing at the path that was asked for.
    #[error("there is no {0}")]
    Missing(EscapedName),
    /// More links than anybody needs, most likely in a ring.
    #[error("too many links in {0}")]
    TooManyLinks(EscapedName),
    /// The archive is to go where there is no folder.
    #[error("extraction point is not a directory")]
    NoFolder,
    /// The archive is to go into a root that may not be written.
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    /// The archive is to go into a mount that may not be written.
    #[error("mounted volume is marked read-only")]
    ReadOnlyMount,
    /// Whom everything is to belong to is not known in the container.
    #[error("{0}")]
    Owner(String),
    /// An entry's name climbs out of the folder that the archive goes to.
    #[error("{entry} is outside of {folder}")]
    Outside {
        /// The name.
        entry: EscapedName,
        /// The folder.
        folder: EscapedName,
    },
    /// A hard link's target does.
    #[error("invalid hardlink {entry} -> {target}")]
    LinkOutside {
        /// The link's name.
        entry: EscapedName,
        /// Its target.
        target: EscapedName,
    },
    /// A folder is in the place of something else, and may not be replaced.
    #[error("cannot overwrite directory {path} with non-directory {folder}")]
    FolderInTheWay {
        /// The place.
        path: EscapedName,
        /// The folder that the archive goes to.
        folder: EscapedName,
    },
    /// Something else is in the place of a folder, and may not be replaced.
    #[error("cannot overwrite non-directory {path} with directory {folder}")]
    OtherInTheWay {
        /// The place.
        path: EscapedName,
        /// The folder that the archive goes to.
        folder: EscapedName,
    },
    /// An owner, a group or a device that Linux cannot have.
    #[error("{entry}: its {what} is out of range")]
    Number {
        /// The entry's name.
        entry: EscapedName,
        /// Which of its numbers.
        what: &'static str,
    },
    /// The archive is malformed.
    #[error(transparent)]
    Archive(TarError),
    /// The guest's kernel refused.
    #[error("{call} {path}")]
    Kernel {
        /// What it was asked.
        call: &'static str,
        /// For what.
        path: EscapedName,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The host is gone, or breaks the protocol.
    #[error("the connection to the host failed")]
    Connection(#[source] io::Error),
}

impl FilesError {
    /// What `call` on `path` came to, in the words for it.
    pub(crate) fn kernel(call: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Kernel { call, path: EscapedName::new(path), source: source.into() }
    }

    /// A look for what the host asked for, which may well not be there.
    pub(crate) fn lookup(path: &[u8], errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing(EscapedName::new(path)),
            Errno::LOOP => Self::TooManyLinks(EscapedName::new(path)),
            errno => Self::kernel("lstat", path, errno),
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Missing(_) | Self::Owner(_) => ErrorCode::NotFound,
            Self::NoFolder
            | Self::ReadOnlyRoot
            | Self::ReadOnlyMount
            | Self::Outside { .. }
            | Self::LinkOutside { .. }
            | Self::FolderInTheWay { .. }
            | Self::OtherInTheWay { .. }
            | Self::Number { .. }
            | Self::Archive(_) => ErrorCode::InvalidArgument,
            Self::TooManyLinks(_) | Self::Kernel { .. } | Self::Connection(_) => ErrorCode::Internal,
        }
    }
}

impl From<TarError> for FilesError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(source) => Self::Connection(source),
            other => Self::Archive(other),
        }
    }
}

impl From<FilesError> for Refusal {
    fn from(error: FilesError) -> Self {
        refusal(error.code(), chain(&error))
    }
}
