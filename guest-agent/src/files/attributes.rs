//! What a file has beside its content, as archives hold it: owner, mode, times, extended attributes, links.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_tar::{Entry, EntryKind, Timestamp, Xattr};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, major, minor, utimensat,
};
use rustix::io::Errno;

use super::paths::by_number;

/// The kernel's own limits on the list of names and on one value (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const MAX_ATTRIBUTE_BYTES: usize = 65_536;
/// More than this of one file's attributes does not fit what readers of archives accept.
const MAX_FILE_ATTRIBUTES_BYTES: usize = 128 << 10;
/// How much is remembered of files with several names. Those beyond it are in the archive once for each name.
const MAX_LINK_BYTES: usize = 8 << 20;

/// An entry without name, links and attributes; `None` for what no archive can hold, which is a socket.
pub(super) fn entry_of(stat: &Stat) -> Option<Entry> {
    let device = (u64::from(major(stat.st_rdev)), u64::from(minor(stat.st_rdev)));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(Vec::new()),
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => EntryKind::CharacterDevice { major: device.0, minor: device.1 },
        FileType::BlockDevice => EntryKind::BlockDevice { major: device.0, minor: device.1 },
        FileType::Socket | FileType::Unknown => return None,
    };
    let size = if kind == EntryKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Some(Entry {
        path: Vec::new(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: u64::from(stat.st_uid),
        gid: u64::from(stat.st_gid),
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        size,
        xattrs: Vec::new(),
        data_offset: 0,
        sparse: None,
    })
}

/// The names under which files with several of them are in the archive.
#[derive(Debug, Default)]
pub(super) struct Links {
    names: HashMap<(u64, u64), Vec<u8>>,
    bytes: usize,
}

impl Links {
    /// The name that is in the archive already; `None` for a file that has no other or has not been seen, which
    /// `name` then is for the next.
    pub(super) fn earlier_name(&mut self, stat: &Stat, name: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return None;
        }
        let file = (stat.st_dev, stat.st_ino);
        if let Some(earlier) = self.names.get(&file) {
            return Some(earlier.clone());
        }
        let bytes = size_of_val(&file) + size_of::<Vec<u8>>() + name.len();
        if self.bytes + bytes <= MAX_LINK_BYTES {
            self.bytes += bytes;
            self.names.insert(file, name.to_vec());
        }
        None
    }
}

/// The extended attributes that archives are to keep: those of users, and file capabilities.
///
/// # Errors
///
/// As of listxattr(2) and getxattr(2); `InvalidData` if there are more than archives hold.
pub(super) fn xattrs(named: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
    let mut list = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = match rustix::fs::listxattr(by_number(named), list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let (mut xattrs, mut bytes) = (Vec::new(), 0);
    let kept = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
    for name in list[..length].split(|byte| *byte == 0).filter(kept) {
        let Some(value) = xattr(named, &CString::new(name)?)? else { continue };
        bytes += name.len() + value.len();
        if bytes > MAX_FILE_ATTRIBUTES_BYTES {
            let problem = "it has more extended attributes than an archive can hold";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        xattrs.push(Xattr { name: name.to_vec(), value });
    }
    Ok(xattrs)
}

/// One attribute's value, if it is there.
///
/// # Errors
///
/// As of getxattr(2).
pub(super) fn xattr(named: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
    match rustix::fs::getxattr(by_number(named), name, value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Owner, mode and attributes of what an archive's entry has become, in an order in which none undoes another: a
/// change of owner drops set-id bits and capabilities.
///
/// # Errors
///
/// What the kernel was asked and why it refused.
pub(super) fn apply(
    made: &OwnedFd,
    entry: &Entry,
    (uid, gid): (Uid, Gid),
) -> Result<(), (&'static str, Errno)> {
    rustix::fs::chownat(made.as_fd(), "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(|errno| ("lchown", errno))?;
    if file_type(made.as_fd()).map_err(|errno| ("lstat", errno))? == FileType::Symlink {
        return Ok(());
    }
    let path = by_number(made.as_fd());
    rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(entry.mode)).map_err(|errno| ("chmod", errno))?;
    for xattr in &entry.xattrs {
        // The reader has refused names with a zero byte.
        let Ok(name) = CString::new(xattr.name.as_slice()) else { continue };
        match rustix::fs::setxattr(path.as_str(), name.as_c_str(), &xattr.value, XattrFlags::empty()) {
            // Not every file may have every attribute; what moved here from elsewhere does without, as in Docker.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(("setxattr", errno)),
        }
    }
    Ok(())
}

/// Sets both times of what a descriptor names. A time that the file system cannot have is not set.
///
/// # Errors
///
/// As of utimensat(2).
pub(super) fn set_times(named: BorrowedFd<'_>, time: Timestamp) -> Result<(), Errno> {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    let times = Timestamps { last_access: time, last_modification: time };
    match utimensat(named, "", &times, AtFlags::EMPTY_PATH) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What a descriptor names.
///
/// # Errors
///
/// As of fstat(2).
pub(super) fn file_type(named: BorrowedFd<'_>) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(named)?.st_mode))
}
