//! What is said about a container's files: work on them has a connection of its own.
//!
//! ```text
//!  host                                            agent
//!   │ ─── Opening::Files(FilesWork) ───────────▶    │
//!   │ ◀── OpeningReply::Path, Files or Refused ──   │
//!   │   StatPath    nothing more                    │
//!   │   ReadTree    ◀── body, Response ──────────   │
//!   │   Export      ◀── body, Response ──────────   │
//!   │   Changes     ◀── Response::Changes …, Response
//!   │   WriteTree   ─── body ──────────────────▶    │
//!   │               ◀── Response ────────────────   │   which may come before the body's end
//! ```
//!
//! The last `Response` is [`crate::Response::Done`] or [`crate::Response::Failed`]; its request id is 0. A body is an
//! archive in pieces (see [`crate::BodyWriter`]): a stream that merely ends, since somebody died, is told from a whole
//! one.

use serde::{Deserialize, Serialize};

/// Work on a container's files. Paths are the container's, absolute or not, with any dots and links: they are resolved
/// in the guest, as Docker's daemon resolves them, and lead nowhere but into the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "work")]
pub enum FilesWork {
    /// What is at a path. A link is itself, unless the path ends in `/` or `/.`.
    StatPath {
        /// Where.
        path: String,
    },
    /// An archive of what is at a path, whose names begin with the path's last part.
    ReadTree {
        /// Where.
        path: String,
    },
    /// Unpacks an archive in a folder.
    WriteTree {
        /// The folder; links are followed.
        path: String,
        /// Whether it is an error if a folder is in the place of something else, or something else in that of a folder;
        /// what is in the way is replaced otherwise.
        #[serde(default)]
        no_overwrite_dir_non_dir: bool,
        /// To whom everything is to belong: `USER[:GROUP]`, resolved by the container's own accounts. Absent, the
        /// archive's numbers say it.
        #[serde(default)]
        owner: Option<String>,
    },
    /// How the container's root differs from the image.
    Changes,
    /// An archive of the container's root, without what is mounted in it.
    Export,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// The path's last part: `.` if it ends in `/.`, `/` for the root. Bytes that are not UTF-8 are replaced, here and
    /// in [`Self::link_target`].
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Type and permissions (`st_mode`, with Linux's numbers).
    pub mode: u32,
    /// When it was last modified: whole seconds since 1970.
    pub mtime_seconds: i64,
    /// Nanoseconds past them.
    pub mtime_nanoseconds: u32,
    /// Where a link leads in the end, absolute in the container, whether there is something or not; empty for
    /// everything else.
    pub link_target: String,
}

/// How one path differs from the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Absolute. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is another; or a folder that something differs in.
    Modified,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}
