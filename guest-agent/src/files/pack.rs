//! A tree of the container as an archive.
//!
//! The container's processes may change it all the while. What vanishes is left out; a file that shrinks while it is
//! read is filled up with zeros, since its size has been said by then, and one that grows is as long as it was.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_tar::{Entry, EntryKind, TarWriter};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Links, entry_of, xattrs};
use super::error::FilesError;
use super::listing::{Listing, MAX_DEPTH};
use super::paths::reopen;

/// How much of a file is read at once.
const COPY_BYTES: usize = 64 << 10;
/// No name of Linux is longer (PATH_MAX).
const MAX_NAME_BYTES: usize = 4096;

/// Writes what `top` names, and everything below it, under the name `base`.
///
/// # Errors
///
/// The output's, or the kernel's; the archive then lacks its end.
pub(super) fn pack_tree<W: Write>(top: OwnedFd, base: &[u8], output: W) -> Result<W, FilesError> {
    let mut packer = Packer::new(output, base);
    if let Some(folder) = packer.node(top, 0)? {
        packer.below(folder)?;
    }
    packer.finish()
}

/// Writes everything below `top`, by names that are relative to it.
///
/// # Errors
///
/// As of [`pack_tree`].
pub(super) fn pack_children<W: Write>(top: BorrowedFd<'_>, output: W) -> Result<W, FilesError> {
    let mut packer = Packer::new(output, b"");
    let listing = Listing::of(top, 0).map_err(|errno| FilesError::kernel("open", b"/", errno))?;
    packer.below(listing)?;
    packer.finish()
}

struct Packer<W> {
    tar: TarWriter<W>,
    links: Links,
    /// Of what is being written.
    name: Vec<u8>,
    buffer: Vec<u8>,
}

/// A folder that is being gone through, and how long its name is.
struct Level {
    listing: Listing,
    name_bytes: usize,
}

impl<W: Write> Packer<W> {
    fn new(output: W, base: &[u8]) -> Self {
        let (tar, links) = (TarWriter::new(output), Links::default());
        Self { tar, links, name: base.to_vec(), buffer: vec![0; COPY_BYTES] }
    }

    fn finish(self) -> Result<W, FilesError> {
        self.tar.finish().map_err(FilesError::Connection)
    }

    /// Writes what is in a folder, whose name is the current one. Not by recursion: a container may be deep.
    fn below(&mut self, listing: Listing) -> Result<(), FilesError> {
        let mut levels = vec![Level { listing, name_bytes: self.name.len() }];
        while let Some(level) = levels.last_mut() {
            self.name.truncate(level.name_bytes);
            let next = level.listing.next_name().map_err(|errno| self.failed("readdir", errno))?;
            let Some(name) = next else {
                levels.pop();
                continue;
            };
            self.descend(&name)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = match rustix::fs::openat(level.listing.folder(), &name, flags, Mode::empty()) {
                Ok(node) => node,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(self.failed("open", errno)),
            };
            if let Some(listing) = self.node(node, levels.len())? {
                levels.push(Level { listing, name_bytes: self.name.len() });
            }
        }
        Ok(())
    }

    fn descend(&mut self, name: &CString) -> Result<(), FilesError> {
        if !self.name.is_empty() && !self.name.ends_with(b"/") {
            self.name.push(b'/');
        }
        self.name.extend_from_slice(name.as_bytes());
        if self.name.len() > MAX_NAME_BYTES {
            return Err(self.failed("lstat", Errno::NAMETOOLONG));
        }
        Ok(())
    }

    /// Writes one entry under the current name, and opens it if it is a folder.
    fn node(&mut self, node: OwnedFd, depth: usize) -> Result<Option<Listing>, FilesError> {
        let stat = rustix::fs::fstat(&node).map_err(|errno| self.failed("lstat", errno))?;
        let Some(mut entry) = entry_of(&stat) else { return Ok(None) };
        entry.path.clone_from(&self.name);
        if let Some(earlier) = self.links.earlier_name(&stat, &self.name) {
            entry.kind = EntryKind::HardLink(earlier);
            entry.size = 0;
            self.header(&entry)?;
            return Ok(None);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(&node, entry).map(|()| None),
            FileType::Directory => self.folder(&node, entry, depth).map(Some),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&node, "", Vec::new())
                    .map_err(|errno| self.failed("readlink", errno))?;
                entry.kind = EntryKind::Symlink(target.into_bytes());
                self.header(&entry).map(|()| None)
            }
            _ => self.header(&entry).map(|()| None),
        }
    }

    fn file(&mut self, node: &OwnedFd, mut entry: Entry) -> Result<(), FilesError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = reopen(node.as_fd(), flags).map_err(|errno| self.failed("open", errno))?;
        entry.xattrs = xattrs(node.as_fd()).map_err(|error| self.failed("listxattr", error))?;
        self.header(&entry)?;
        while self.tar.remaining() > 0 {
            let wanted =
                usize::try_from(self.tar.remaining()).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let count = match rustix::io::read(&file, &mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    wanted
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.failed("read", errno)),
            };
            self.tar.data(&self.buffer[..count]).map_err(FilesError::Connection)?;
        }
        Ok(())
    }

    fn folder(&mut self, node: &OwnedFd, mut entry: Entry, depth: usize) -> Result<Listing, FilesError> {
        if depth > MAX_DEPTH {
            return Err(self.failed("open", Errno::NAMETOOLONG));
        }
        let listing = Listing::of(node.as_fd(), depth).map_err(|errno| self.failed("open", errno))?;
        entry.xattrs = xattrs(listing.folder()).map_err(|error| self.failed("listxattr", error))?;
        self.header(&entry)?;
        Ok(listing)
    }

    fn header(&mut self, entry: &Entry) -> Result<(), FilesError> {
        self.tar.entry(entry).map_err(FilesError::Connection)
    }

    fn failed(&self, call: &'static str, source: impl Into<std::io::Error>) -> FilesError {
        FilesError::kernel(call, &self.name, source)
    }
}
