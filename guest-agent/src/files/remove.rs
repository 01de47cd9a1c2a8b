//! Removing what is in the way, a whole tree if need be.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx, unlinkat,
};
use rustix::io::Errno;

use super::listing::{Listing, MAX_DEPTH};

/// How often a folder is emptied again that somebody fills in the meantime.
const MAX_ATTEMPTS: u32 = 8;

/// A folder that is being emptied, and how it is called in the one above.
struct Level {
    listing: Listing,
    name: CString,
    attempts: u32,
}

/// Removes what is called `name` in `folder`, with everything below it, and nothing that is mounted. Nothing there is
/// no error.
///
/// # Errors
///
/// `BUSY` if something is mounted at or below it, after what could be removed is gone; as of unlink(2) otherwise.
pub(super) fn remove_all(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    if unlink(folder, name)? == Unlinked::Gone {
        return Ok(());
    }
    let mut levels = vec![open(folder, name, 0)?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        if let Some(name) = level.listing.next_name()? {
            if unlink(level.listing.folder(), &name)? == Unlinked::IsFolder {
                let below = open(level.listing.folder(), &name, depth)?;
                levels.push(below);
            }
            continue;
        }
        let Some(emptied) = levels.pop() else { return Ok(()) };
        let parent = levels.last().map_or(folder, |level| level.listing.folder());
        match unlinkat(parent, &emptied.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if emptied.attempts < MAX_ATTEMPTS => {
                let again = open(parent, &emptied.name, levels.len())?;
                levels.push(Level { attempts: emptied.attempts + 1, ..again });
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// What an attempt to remove something as if it were a file has come to.
#[derive(PartialEq, Eq)]
enum Unlinked {
    Gone,
    IsFolder,
}

/// The kernel itself refuses to remove what something is mounted on only where the caller has that mount. The tree
/// that clients see belongs to nobody, and the mounts on what is removed in it would be gone everywhere.
fn unlink(folder: BorrowedFd<'_>, name: &CStr) -> Result<Unlinked, Errno> {
    match statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(found) if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => return Err(Errno::BUSY),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Unlinked::Gone),
        Err(Errno::ISDIR) => Ok(Unlinked::IsFolder),
        Err(errno) => Err(errno),
    }
}

fn open(folder: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<Level, Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // What is mounted is not part of what is to be replaced.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let opened: OwnedFd = match openat2(folder, name, flags, Mode::empty(), resolve) {
        Err(Errno::XDEV) => return Err(Errno::BUSY),
        opened => opened?,
    };
    Ok(Level { listing: Listing::new(opened, depth), name: name.to_owned(), attempts: 0 })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use rustix::fs::open;

    use super::*;

    fn remove(folder: &Path, name: &str) -> Result<(), Errno> {
        let opened = open(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        remove_all(opened.as_fd(), &CString::new(name).unwrap())
    }

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        for number in 0..500 {
            std::fs::write(tree.join(format!("a/b/{number}")), "x").unwrap();
        }
        remove(folder.path(), "tree").unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        remove(folder.path(), "tree").unwrap();
        std::os::unix::fs::symlink(&kept, folder.path().join("link")).unwrap();
        remove(folder.path(), "link").unwrap();
        assert!(kept.join("file").exists());
    }
}
