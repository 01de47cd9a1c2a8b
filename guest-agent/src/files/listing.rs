//! What is in a folder, name by name, in order, in bounded memory.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

/// The deepest that any tree is followed. A path of Linux has at most half of 4096 parts.
pub(super) const MAX_DEPTH: usize = 2048;

/// How many bytes of names are held at once for a folder near the root and for one far from it. With [`MAX_DEPTH`]
/// of them that is 20 MiB for a tree that was made to cost as much as it can.
const NAMES_NEAR: usize = 256 << 10;
const NAMES_FAR: usize = 8 << 10;
const NEAR: usize = 16;

/// What the kernel is asked for at once.
const BUFFER_BYTES: usize = 8 << 10;

/// The names in a folder. In order if they fit in what is held at once, as those of nearly every folder do; a larger
/// one comes in runs that are each in order.
#[derive(Debug)]
pub(super) struct Listing {
    folder: OwnedFd,
    /// The next one last.
    names: Vec<CString>,
    limit: usize,
    exhausted: bool,
}

impl Listing {
    /// Of a folder that is open for reading, `depth` levels below where the work began.
    pub(super) fn new(folder: OwnedFd, depth: usize) -> Self {
        let limit = if depth < NEAR { NAMES_NEAR } else { NAMES_FAR };
        Self { folder, names: Vec::new(), limit, exhausted: false }
    }

    /// Of the folder that a descriptor names.
    ///
    /// # Errors
    ///
    /// As of open(2).
    pub(super) fn of(named: BorrowedFd<'_>, depth: usize) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(named, ".", flags, Mode::empty())?;
        Ok(Self::new(folder, depth))
    }

    /// The folder.
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The next name.
    ///
    /// # Errors
    ///
    /// As of getdents(2).
    pub(super) fn next_name(&mut self) -> Result<Option<CString>, Errno> {
        if self.names.is_empty() && !self.exhausted {
            self.fill()?;
        }
        Ok(self.names.pop())
    }

    fn fill(&mut self) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut folder = RawDir::new(&self.folder, &mut buffer);
        let mut held = 0;
        loop {
            // What the kernel has given must be taken: it goes on behind that.
            if folder.is_buffer_empty() && held >= self.limit {
                break;
            }
            match folder.next() {
                None => {
                    self.exhausted = true;
                    break;
                }
                // The folder itself was removed.
                Some(Err(Errno::NOENT)) => {
                    self.exhausted = true;
                    break;
                }
                Some(entry) => {
                    let name = entry?.file_name().to_owned();
                    if name.as_bytes() != b"." && name.as_bytes() != b".." {
                        held += name.as_bytes().len() + size_of::<CString>();
                        self.names.push(name);
                    }
                }
            }
        }
        self.names.sort_unstable_by(|one, other| other.cmp(one));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &std::path::Path, depth: usize) -> Vec<String> {
        let opened = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut listing = Listing::of(opened.as_fd(), depth).unwrap();
        let mut names = Vec::new();
        while let Some(name) = listing.next_name().unwrap() {
            names.push(name.into_string().unwrap());
        }
        names
    }

    #[test]
    fn names_come_in_order_and_each_once_also_from_a_folder_that_is_not_held_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected: Vec<String> = (0..2000).map(|number| format!("a-name-{number}")).collect();
        for name in &expected {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        expected.sort();
        assert_eq!(names(folder.path(), 0), expected);
        let mut far = names(folder.path(), NEAR);
        assert_ne!(far, expected, "it is in runs");
        far.sort();
        assert_eq!(far, expected);
    }
}
