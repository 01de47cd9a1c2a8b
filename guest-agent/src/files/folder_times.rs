//! The times of unpacked folders, which are set when nothing more is put into them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use capsid_tar::Timestamp;
use rustix::fs::OFlags;

use super::attributes::set_times;
use super::paths::find;

/// How much is remembered at once. An archive of more folders has its finished ones settled on the way; only in one
/// that comes back to a folder much later does that folder's time then stay what the last change made it.
const MAX_BYTES: usize = 8 << 20;

/// Folders by their path from the root.
#[derive(Debug, Default)]
pub(super) struct FolderTimes {
    pending: BTreeMap<Vec<u8>, Timestamp>,
    bytes: usize,
}

impl FolderTimes {
    /// Notes a folder's time; of two for one folder the later counts.
    pub(super) fn remember(&mut self, root: BorrowedFd<'_>, path: Vec<u8>, time: Timestamp) {
        let bytes = Self::cost(&path);
        if self.bytes + bytes > MAX_BYTES {
            self.set_finished(root, &path);
        }
        if self.pending.insert(path, time).is_none() {
            self.bytes += bytes;
        }
    }

    /// Sets every time that is not set yet. A folder that is gone, or is none any more, needs none.
    pub(super) fn set_all(&mut self, root: BorrowedFd<'_>) {
        for (path, time) in std::mem::take(&mut self.pending) {
            set(root, &path, time);
        }
        self.bytes = 0;
    }

    /// Archives nearly always go through a tree in depth: only what `path` is in is still being filled.
    fn set_finished(&mut self, root: BorrowedFd<'_>, path: &[u8]) {
        let is_above = |folder: &[u8]| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.pending.retain(|folder, time| {
            let stays = is_above(folder);
            if !stays {
                set(root, folder, *time);
            }
            stays
        });
        self.bytes = self.pending.keys().map(|path| Self::cost(path)).sum();
    }

    fn cost(path: &[u8]) -> usize {
        path.len() + size_of::<Vec<u8>>() + size_of::<Timestamp>()
    }
}

fn set(root: BorrowedFd<'_>, path: &[u8], time: Timestamp) {
    // Not what a link leads to that has taken the folder's place.
    if let Ok(folder) = find(root, path, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        let _ = set_times(folder.as_fd(), time);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn what_is_finished_is_set_and_what_is_above_waits() {
        let folder = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut times = FolderTimes::default();
        let time = Timestamp { seconds: 1000, nanoseconds: 5 };
        for path in ["a", "a/b", "ab", "a/c"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
            times.remember(root.as_fd(), path.into(), time);
        }
        times.set_finished(root.as_fd(), b"a/c/d");
        assert_eq!(times.pending.keys().collect::<Vec<_>>(), [&b"a"[..], b"a/c"]);
        std::fs::write(folder.path().join("a/late"), "").unwrap();
        times.set_all(root.as_fd());
        for path in ["a", "a/b", "ab", "a/c"] {
            let modified = folder.path().join(path).metadata().unwrap().modified().unwrap();
            assert_eq!(modified, UNIX_EPOCH + Duration::new(1000, 5), "{path}");
        }
    }
}
