//! The work itself, in a child of the agent that does this and ends: it may wait for disks and for the host as long as
//! it must, and the agent goes on. It ends with its connection, or is killed with the machine.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use capsid_protocol::{
    BodyReader, BodyWriter, ChangeKind, FileChange, FilesWork, Identity, OpeningReply, PathStat, Refusal,
    RequestId, Response, write_frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, Gid, OFlags, StatVfsMountFlags, StatxFlags, Uid};
use rustix::net::Shutdown;

use super::attributes::file_type;
use super::changes::{self, Sink};
use super::error::FilesError;
use super::pack::{pack_children, pack_tree};
use super::paths::{ContainerPath, find, reopen};
use super::unpack::{Wishes, drain, unpack};
use crate::error::StepError;
use crate::identity;
use crate::launch::MAX_ACCOUNT_FILE_BYTES;

/// How much of a client's archive is read at once.
const READ_BYTES: usize = 128 << 10;
/// Text of paths in one frame of changes.
const BATCH_BYTES: usize = 32 << 10;
/// How long a host may go on sending an archive that was refused.
const REFUSED_PATIENCE: Duration = Duration::from_secs(10);

/// A prepared container's trees.
pub(crate) trait Trees {
    /// What clients see: the root, and what is mounted in it for the container's own use, but for the interfaces of
    /// the kernel.
    fn seen(&self) -> BorrowedFd<'_>;

    /// The root without what is mounted in it.
    ///
    /// # Errors
    ///
    /// As of open(2).
    fn bare(&self) -> io::Result<OwnedFd>;

    /// The writable layer in overlayfs's form, and the root as it would be without it.
    ///
    /// # Errors
    ///
    /// The step that the kernel refused.
    fn apart(&self) -> Result<(OwnedFd, OwnedFd), StepError>;
}

/// Does one piece of work and says over the connection, which blocks, what came of it. `early` has arrived on it
/// already. A host that is gone is no matter.
pub(crate) fn serve(work: &FilesWork, trees: &impl Trees, connection: OwnedFd, early: &[u8]) {
    let host = Host { connection: File::from(connection) };
    // All that could still be told is that nobody can be told.
    let _ = match work {
        FilesWork::StatPath { path } => host.stat_path(trees, path),
        FilesWork::ReadTree { path } => host.read_tree(trees, path),
        FilesWork::WriteTree { path, no_overwrite_dir_non_dir, owner } => {
            let options = (*no_overwrite_dir_non_dir, owner.as_deref());
            host.write_tree(trees, path, options, early)
        }
        FilesWork::Changes => host.changes(trees),
        FilesWork::Export => host.export(trees),
    };
}

/// The other end of the connection.
struct Host {
    connection: File,
}

/// An error of the connection: there is nobody to be told of it.
type Told = Result<(), FilesError>;

impl Host {
    fn stat_path(&self, trees: &impl Trees, path: &str) -> Told {
        match ContainerPath::new(path).stat(trees.seen()) {
            Ok((_, stat)) => self.reply(&OpeningReply::Path(stat)),
            Err(error) => self.refuse(error),
        }
    }

    fn read_tree(&self, trees: &impl Trees, path: &str) -> Told {
        let path = ContainerPath::new(path);
        let (found, stat): (OwnedFd, PathStat) = match path.stat(trees.seen()) {
            Ok(found) => found,
            Err(error) => return self.refuse(error),
        };
        self.reply(&OpeningReply::Path(stat))?;
        self.send_body(|body| pack_tree(found, path.name(), body).map(drop))
    }

    fn export(&self, trees: &impl Trees) -> Told {
        let root = match trees.bare() {
            Ok(root) => root,
            Err(error) => return self.refuse(FilesError::kernel("open", b"/", error)),
        };
        self.reply(&OpeningReply::Files)?;
        self.send_body(|body| pack_children(root.as_fd(), body).map(drop))
    }

    fn changes(&self, trees: &impl Trees) -> Told {
        let (upper, lower) = match trees.apart() {
            Ok(apart) => apart,
            Err(error) => return self.refuse(error),
        };
        self.reply(&OpeningReply::Files)?;
        let mut batch = Batch { host: self, changes: Vec::new(), bytes: 0 };
        let told = changes::tell(upper.as_fd(), lower.as_fd(), &mut batch).and_then(|()| batch.send());
        self.end(told)
    }

    fn write_tree(
        &self,
        trees: &impl Trees,
        path: &str,
        (no_overwrite_dir_non_dir, owner): (bool, Option<&str>),
        early: &[u8],
    ) -> Told {
        let path = ContainerPath::new(path);
        let wishes = check_destination(trees.seen(), &path).and_then(|()| {
            let owner = owner.map(|owner| find_owner(trees.seen(), owner)).transpose()?;
            Ok(Wishes { no_overwrite_dir_non_dir, owner })
        });
        let wishes = match wishes {
            Ok(wishes) => wishes,
            Err(error) => return self.refuse(error),
        };
        self.reply(&OpeningReply::Files)?;
        let body = BodyReader::new(early.chain(&self.connection));
        let archive = BufReader::with_capacity(READ_BYTES, body);
        let unpacked = unpack(trees.seen(), &path.relative(), &wishes, archive)
            .and_then(|rest| drain(rest).map_err(FilesError::Connection));
        // A machine that is only there for this may be gone the moment that its host is told.
        rustix::fs::sync();
        let was_refused = unpacked.is_err();
        self.end(unpacked)?;
        if was_refused { self.linger() } else { Ok(()) }
    }

    /// Sends what `write` writes, and says whether that is all of it.
    fn send_body(&self, write: impl FnOnce(&mut BodyWriter<&File>) -> Result<(), FilesError>) -> Told {
        let mut body = BodyWriter::new(&self.connection);
        let written = write(&mut body);
        body.finish().map_err(FilesError::Connection)?;
        self.end(written)
    }

    fn reply(&self, reply: &OpeningReply) -> Told {
        self.send(reply)
    }

    fn refuse(&self, refusal: impl Into<Refusal>) -> Told {
        self.send(&OpeningReply::Refused(refusal.into()))
    }

    fn end(&self, outcome: Result<(), FilesError>) -> Told {
        self.send(&match outcome {
            Ok(()) => Response::Done,
            Err(error) => Response::Failed(error.into()),
        })
    }

    fn send(&self, message: &impl serde::Serialize) -> Told {
        let failed = |error| FilesError::Connection(io::Error::other(error));
        write_frame(&mut &self.connection, RequestId(0), message).map_err(failed)
    }

    /// Reads and forgets what the host still sends: closed with something unread, the connection would be reset, and
    /// the host might not get to read why.
    fn linger(&self) -> Told {
        let failed = |errno: rustix::io::Errno| FilesError::Connection(errno.into());
        rustix::net::shutdown(&self.connection, Shutdown::Write).map_err(failed)?;
        let deadline = Instant::now() + REFUSED_PATIENCE;
        let mut scratch = vec![0; READ_BYTES];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let mut ready = [PollFd::new(&self.connection, PollFlags::IN)];
            if left.is_zero() || poll(&mut ready, timeout.as_ref()).map_err(failed)? == 0 {
                return Ok(());
            }
            if rustix::io::read(&self.connection, &mut scratch).map_err(failed)? == 0 {
                return Ok(());
            }
        }
    }
}

/// Changes that have not been sent yet.
struct Batch<'a> {
    host: &'a Host,
    changes: Vec<FileChange>,
    bytes: usize,
}

impl Batch<'_> {
    fn send(&mut self) -> Result<(), FilesError> {
        let changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        if changes.is_empty() { Ok(()) } else { self.host.send(&Response::Changes(changes)) }
    }
}

impl Sink for Batch<'_> {
    fn change(&mut self, path: &[u8], kind: ChangeKind) -> Result<(), FilesError> {
        self.bytes += path.len();
        self.changes.push(FileChange { path: String::from_utf8_lossy(path).into_owned(), kind });
        if self.bytes < BATCH_BYTES { Ok(()) } else { self.send() }
    }
}

/// Whether an archive may be unpacked there.
fn check_destination(seen: BorrowedFd<'_>, path: &ContainerPath) -> Result<(), FilesError> {
    let failed = |errno| FilesError::lookup(&path.absolute(), errno);
    let folder = find(seen, &path.relative(), OFlags::empty()).map_err(failed)?;
    if file_type(folder.as_fd()).map_err(failed)? != FileType::Directory {
        return Err(FilesError::NoFolder);
    }
    let flags = rustix::fs::fstatvfs(&folder).map_err(failed)?.f_flag;
    if !flags.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = |named: BorrowedFd<'_>| {
        rustix::fs::statx(named, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id)
    };
    let is_root = mount(folder.as_fd()).map_err(failed)? == mount(seen).map_err(failed)?;
    Err(if is_root { FilesError::ReadOnlyRoot } else { FilesError::ReadOnlyMount })
}

/// The numbers of a user and its group, by the container's own accounts.
fn find_owner(seen: BorrowedFd<'_>, owner: &str) -> Result<(Uid, Gid), FilesError> {
    let identity = Identity { user: owner.to_owned(), additional_groups: Vec::new() };
    let (passwd, group) = (account_file(seen, "etc/passwd"), account_file(seen, "etc/group"));
    let user = identity::resolve(&identity, &passwd, &group)
        .map_err(|error| FilesError::Owner(error.to_string()))?;
    Ok((Uid::from_raw(user.uid), Gid::from_raw(user.gid)))
}

/// What cannot be read counts as empty.
fn account_file(seen: BorrowedFd<'_>, path: &str) -> String {
    let Ok(named) = find(seen, path.as_bytes(), OFlags::empty()) else { return String::new() };
    if file_type(named.as_fd()) != Ok(FileType::RegularFile) {
        return String::new();
    }
    let Ok(file) = reopen(named.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK) else { return String::new() };
    let mut bytes = Vec::new();
    let _ = File::from(file).take(MAX_ACCOUNT_FILE_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
