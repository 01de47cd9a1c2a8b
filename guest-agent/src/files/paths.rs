//! Paths of the container, resolved within its root.
//!
//! Every look begins at an open root and goes through `openat2`, which keeps links and `..` inside it whatever the
//! container's processes rename in the meantime (openat2(2), `RESOLVE_IN_ROOT`). Descriptors that only name something
//! (`O_PATH`) are what is passed on: opening a device or a pipe would already do something.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use capsid_protocol::PathStat;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::FilesError;

/// How often a look is begun anew that somebody's renaming has disturbed.
const MAX_RACES: usize = 128;
/// Links that Docker's daemon follows on the way to a link's target.
const MAX_LINKS: usize = 255;

/// How a path ends, which says whether a link at its end is meant or what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Plain,
    /// `/`: a folder.
    Slash,
    /// `/.`: a folder, by its content.
    Dot,
}

/// A path as a client gave it, made plain by its letters alone: `..` goes up before any link is looked at, as in
/// Docker's daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerPath {
    parts: Vec<Vec<u8>>,
    ending: Ending,
}

impl ContainerPath {
    /// Any text is a path.
    pub(crate) fn new(text: &str) -> Self {
        let (mut parts, _) = plain_parts(text.as_bytes());
        let trimmed = text.trim_end_matches('/');
        let ending = match trimmed.rsplit('/').next() {
            Some("." | "") | None => Ending::Dot,
            Some(_) if trimmed.len() < text.len() => Ending::Slash,
            Some(_) => Ending::Plain,
        };
        // The root has no name to end in a dot, unless that is all there is.
        let ending = if trimmed.is_empty() && !text.is_empty() { Ending::Slash } else { ending };
        parts.shrink_to_fit();
        Self { parts, ending }
    }

    /// The last part, by which archives and clients call what is there.
    pub(crate) fn name(&self) -> &[u8] {
        match (self.ending, self.parts.last()) {
            (Ending::Dot, _) => b".",
            (_, Some(part)) => part,
            (_, None) => b"/",
        }
    }

    /// The path, relative to the root.
    pub(crate) fn relative(&self) -> Vec<u8> {
        join(&self.parts)
    }

    /// The path for people.
    pub(crate) fn absolute(&self) -> Vec<u8> {
        [b"/".as_slice(), &self.parts.join(&b'/')].concat()
    }

    /// Names what is there.
    ///
    /// # Errors
    ///
    /// [`FilesError::Missing`], or what stands in the way.
    pub(crate) fn find(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, FilesError> {
        let flags = match self.ending {
            Ending::Plain => OFlags::NOFOLLOW,
            Ending::Slash | Ending::Dot => OFlags::DIRECTORY,
        };
        find(root, &self.relative(), flags).map_err(|errno| FilesError::lookup(&self.absolute(), errno))
    }

    /// What is there, and what there is to say of it.
    ///
    /// # Errors
    ///
    /// As of [`ContainerPath::find`].
    pub(crate) fn stat(&self, root: BorrowedFd<'_>) -> Result<(OwnedFd, PathStat), FilesError> {
        let found = self.find(root)?;
        let failed = |errno| FilesError::lookup(&self.absolute(), errno);
        let stat = rustix::fs::fstat(&found).map_err(failed)?;
        let link_target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => evaluate(root, &self.parts).map_err(failed)?,
            _ => Vec::new(),
        };
        let stat = PathStat {
            name: String::from_utf8_lossy(self.name()).into_owned(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            mtime_seconds: stat.st_mtime,
            mtime_nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            link_target: String::from_utf8_lossy(&link_target).into_owned(),
        };
        Ok((found, stat))
    }
}

/// A path's parts without those that say nothing, and whether `..` tried to leave its start.
pub(crate) fn plain_parts(path: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let (mut parts, mut climbs) = (Vec::<Vec<u8>>::new(), false);
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => climbs |= parts.pop().is_none(),
            part => parts.push(part.to_vec()),
        }
    }
    (parts, climbs)
}

/// Parts as a path that is relative to the root.
pub(crate) fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

/// Names what a path leads to within `root`.
///
/// # Errors
///
/// As of openat2(2).
pub(crate) fn find(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = Path::new(OsStr::from_bytes(path));
    for _ in 0..MAX_RACES {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel could not be sure that a `..` stayed inside.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what a descriptor names.
///
/// # Errors
///
/// As of open(2).
pub(crate) fn reopen(named: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(by_number(named), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

/// A path to what a descriptor names, for calls that take no descriptor of that kind.
pub(crate) fn by_number(named: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", named.as_raw_fd())
}

/// Where a path leads in the end, or as far as there is something: absolute.
fn evaluate(root: BorrowedFd<'_>, parts: &[Vec<u8>]) -> Result<Vec<u8>, Errno> {
    let mut reached: Vec<Vec<u8>> = Vec::new();
    let mut ahead: Vec<Vec<u8>> = parts.iter().rev().cloned().collect();
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == b".." {
            reached.pop();
            continue;
        }
        reached.push(part);
        let Some(target) = read_link(root, &join(&reached))? else { continue };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        reached.pop();
        if target.starts_with(b"/") {
            reached.clear();
        }
        let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        ahead.extend(parts.into_iter().rev());
    }
    Ok([b"/".as_slice(), &reached.join(&b'/')].concat())
}

/// What a link says; `None` for everything else, also for nothing.
fn read_link(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let found = match find(root, path, OFlags::NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::readlinkat(found.as_fd(), "", Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> (String, String, Ending) {
        let path = ContainerPath::new(text);
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (lossy(&path.relative()), lossy(path.name()), path.ending)
    }

    #[test]
    fn paths_are_made_plain_as_docker_makes_them() {
        let cases = [
            ("/etc/hosts", "etc/hosts", "hosts", Ending::Plain),
            ("etc//./hosts", "etc/hosts", "hosts", Ending::Plain),
            ("/etc/", "etc", "etc", Ending::Slash),
            ("/etc/.", "etc", ".", Ending::Dot),
            ("/etc/./", "etc", ".", Ending::Dot),
            ("/a/../../etc", "etc", "etc", Ending::Plain),
            ("/d/..", ".", "/", Ending::Plain),
            ("/d/s/..", "d", "d", Ending::Plain),
            ("/", ".", "/", Ending::Slash),
            ("/.", ".", ".", Ending::Dot),
            (".", ".", ".", Ending::Dot),
            ("", ".", ".", Ending::Dot),
        ];
        for (text, relative, name, ending) in cases {
            assert_eq!(shape(text), (relative.to_owned(), name.to_owned(), ending), "{text:?}");
        }
    }
}
