//! How the container's root differs from what it was made of, as `docker diff` tells it.
//!
//! The writable layer holds what differs, in overlayfs's form (`Documentation/filesystems/overlayfs.rst`): a character
//! device of number 0 where something was removed, a mark on a folder that hides the one below. It is walked beside
//! the root that the container would have without it. What was only touched, such as a folder on the way to a change
//! that was undone, is not told: what counts is what Docker compares.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_protocol::ChangeKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::attributes::xattr;
use super::error::FilesError;
use super::listing::{Listing, MAX_DEPTH};

/// overlayfs's mark of a folder that hides the one below.
const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// What decides whether a file is another though everything else is the same.
const CAPABILITY: &CStr = c"security.capability";

/// Takes the changes one by one, each folder's before those in it.
pub(super) trait Sink {
    /// The path is absolute.
    ///
    /// # Errors
    ///
    /// Whatever should end the walk.
    fn change(&mut self, path: &[u8], kind: ChangeKind) -> Result<(), FilesError>;
}

/// Tells how `upper`, a writable layer, changes what is in `lower`. Both are named by their descriptors.
///
/// # Errors
///
/// The sink's, or the kernel's.
pub(super) fn tell(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    sink: &mut impl Sink,
) -> Result<(), FilesError> {
    let mut walk = Walk { path: Vec::new(), sink };
    let root = Level::open(upper, Some(lower), 0).map_err(|errno| walk.failed("open", errno))?;
    walk.run(root)
}

struct Walk<'a, S> {
    /// Of what is being compared: empty for the root.
    path: Vec<u8>,
    sink: &'a mut S,
}

/// A folder of the writable layer that is being gone through.
struct Level {
    upper: Listing,
    /// What it lies on; `None` where there is no folder below.
    lower: Option<OwnedFd>,
    /// What is below and hidden by it, still to be told, if it hides everything.
    hidden: Option<Listing>,
    path_bytes: usize,
    /// Whether it has been told, which anything told below it needs.
    told: bool,
}

impl Level {
    fn open(upper: BorrowedFd<'_>, lower: Option<BorrowedFd<'_>>, depth: usize) -> Result<Self, Errno> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let upper = Listing::of(upper, depth)?;
        let is_opaque = matches!(
            xattr(upper.folder(), OPAQUE),
            Ok(Some(value)) if value == b"y"
        );
        let hidden = lower.filter(|_| is_opaque).map(|lower| Listing::of(lower, depth)).transpose()?;
        let lower = lower.map(|lower| lower.try_clone_to_owned()).transpose();
        let lower = lower.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Self { upper, lower, hidden, path_bytes: 0, told: false })
    }
}

impl<S: Sink> Walk<'_, S> {
    /// Not by recursion: a container may be deep.
    fn run(&mut self, mut root: Level) -> Result<(), FilesError> {
        // The root itself is never told.
        root.told = true;
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_bytes);
            let next = level.upper.next_name().map_err(|errno| self.failed("readdir", errno))?;
            if let Some(name) = next {
                self.path.push(b'/');
                self.path.extend_from_slice(name.as_bytes());
                if let Some(below) = self.compare(&mut levels, &name)? {
                    levels.push(below);
                }
                continue;
            }
            self.tell_hidden(&mut levels)?;
            levels.pop();
        }
        Ok(())
    }

    /// Compares one thing, and opens it if it is a folder.
    fn compare(&mut self, levels: &mut [Level], name: &CString) -> Result<Option<Level>, FilesError> {
        let Some(level) = levels.last() else { return Ok(None) };
        let Some(stat) = self.look(level.upper.folder(), name)? else { return Ok(None) };
        let before = match &level.lower {
            Some(lower) => self.look(lower.as_fd(), name)?,
            None => None,
        };
        if is_whiteout(&stat) {
            if before.is_some() {
                self.tell(levels, ChangeKind::Deleted)?;
            }
            return Ok(None);
        }
        let kind = match &before {
            None => Some(ChangeKind::Added),
            Some(before) if self.is_another(level, name, before, &stat)? => Some(ChangeKind::Modified),
            Some(_) => None,
        };
        let is_folder = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let below = match is_folder(&stat) {
            true => self.open(level, name, before.as_ref().is_some_and(is_folder), levels.len())?,
            false => None,
        };
        if let Some(kind) = kind {
            self.tell(levels, kind)?;
        }
        Ok(below.map(|below| Level { told: kind.is_some(), path_bytes: self.path.len(), ..below }))
    }

    fn open(
        &self,
        level: &Level,
        name: &CString,
        on_a_folder: bool,
        depth: usize,
    ) -> Result<Option<Level>, FilesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |folder: BorrowedFd<'_>| openat(folder, name, flags, Mode::empty());
        let opened = || {
            let upper = open(level.upper.folder())?;
            let lower = level.lower.as_ref().filter(|_| on_a_folder);
            let lower = lower.map(|lower| open(lower.as_fd())).transpose()?;
            Level::open(upper.as_fd(), lower.as_ref().map(AsFd::as_fd), depth)
        };
        match opened() {
            Ok(below) => Ok(Some(below)),
            // Gone, or replaced, since it was looked at.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.failed("open", errno)),
        }
    }

    /// Everything below a folder that hides it was removed, unless it was put there again.
    fn tell_hidden(&mut self, levels: &mut [Level]) -> Result<(), FilesError> {
        let Some(mut hidden) = levels.last_mut().and_then(|level| level.hidden.take()) else { return Ok(()) };
        let path_bytes = self.path.len();
        while let Some(name) = hidden.next_name().map_err(|errno| self.failed("readdir", errno))? {
            self.path.truncate(path_bytes);
            self.path.push(b'/');
            self.path.extend_from_slice(name.as_bytes());
            let upper = levels.last().map(|level| level.upper.folder());
            let is_there = match upper {
                Some(upper) => self.look(upper, &name)?,
                None => None,
            };
            // A removal that has a mark of its own has been told by it.
            if is_there.is_none() {
                self.tell(levels, ChangeKind::Deleted)?;
            }
        }
        Ok(())
    }

    /// Tells of the current path, and first of the folders on its way that have not been told: something in them
    /// differs.
    fn tell(&mut self, levels: &mut [Level], kind: ChangeKind) -> Result<(), FilesError> {
        for level in levels.iter_mut().filter(|level| !level.told) {
            self.sink.change(&self.path[..level.path_bytes], ChangeKind::Modified)?;
            level.told = true;
        }
        self.sink.change(&self.path, kind)
    }

    /// Docker's comparison. Times and sizes of folders say nothing, and a time without a fraction equals any of the
    /// same second: it went through an archive.
    fn is_another(
        &self,
        level: &Level,
        name: &CString,
        before: &Stat,
        now: &Stat,
    ) -> Result<bool, FilesError> {
        let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        if facts(before) != facts(now) {
            return Ok(true);
        }
        if FileType::from_raw_mode(now.st_mode) == FileType::Directory {
            return Ok(false);
        }
        let same_time = before.st_mtime == now.st_mtime
            && (before.st_mtime_nsec == now.st_mtime_nsec
                || before.st_mtime_nsec == 0
                || now.st_mtime_nsec == 0);
        if !same_time || before.st_size != now.st_size {
            return Ok(true);
        }
        if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let Some(lower) = &level.lower else { return Ok(false) };
        Ok(self.capability(lower.as_fd(), name)? != self.capability(level.upper.folder(), name)?)
    }

    fn capability(&self, folder: BorrowedFd<'_>, name: &CString) -> Result<Option<Vec<u8>>, FilesError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let named = match openat(folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            named => named.map_err(|errno| self.failed("lstat", errno))?,
        };
        xattr(named.as_fd(), CAPABILITY).map_err(|errno| self.failed("getxattr", errno))
    }

    fn look(&self, folder: BorrowedFd<'_>, name: &CString) -> Result<Option<Stat>, FilesError> {
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("lstat", errno)),
        }
    }

    fn failed(&self, call: &'static str, source: impl Into<std::io::Error>) -> FilesError {
        FilesError::kernel(call, &self.path, source)
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
