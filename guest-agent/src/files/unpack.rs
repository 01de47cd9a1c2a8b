//! An archive from a client, unpacked in a folder of the container, by the rules of Docker's daemon.
//!
//! Archive and container may both mean harm. Names climb nowhere, since they are made plain first; links on the way
//! are followed within the container's root, as a process of the container would follow them; what is made is made
//! beside nothing that a name could be swapped for. What is held at once does not grow with the archive.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use capsid_tar::{Entry, EntryKind, EscapedName, Extent, TarInput, TarLimits, TarReader};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, linkat, makedev, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;

use super::attributes::{apply, file_type, set_times};
use super::error::FilesError;
use super::folder_times::FolderTimes;
use super::paths::{find, join, plain_parts};
use super::remove::remove_all;

/// How often something is made again in whose place something else has appeared.
const MAX_RACES: usize = 8;

/// What is asked of an unpacking.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Whether folders and other things keep their places from each other.
    pub(super) no_overwrite_dir_non_dir: bool,
    /// Whom everything is to belong to, whatever the archive says.
    pub(super) owner: Option<(Uid, Gid)>,
}

/// Unpacks `archive`, not compressed, below `folder`, which is relative to `root`. Leaves unread what follows the
/// archive's end. A failure leaves what was unpacked by then.
///
/// # Errors
///
/// The archive's, or the kernel's.
pub(super) fn unpack<R: TarInput>(
    root: BorrowedFd<'_>,
    folder: &[u8],
    wishes: &Wishes,
    archive: R,
) -> Result<R, FilesError> {
    let (prefix, _) = plain_parts(folder);
    let mut unpacker = Unpacker { root, prefix, wishes, times: FolderTimes::default() };
    let mut reader = TarReader::new(archive, TarLimits::default()).forgiving();
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&entry, &mut reader)?;
    }
    unpacker.times.set_all(root);
    Ok(reader.into_input())
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    /// The parts of the folder's path.
    prefix: Vec<Vec<u8>>,
    wishes: &'a Wishes,
    times: FolderTimes,
}

/// Where an entry goes.
struct Place {
    /// The open folder that it is to be in.
    parent: OwnedFd,
    name: CString,
    /// From the root.
    path: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry<R: TarInput>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), FilesError> {
        let (parts, climbs) = plain_parts(&entry.path);
        if climbs {
            let folder = self.shown_folder();
            return Err(FilesError::Outside { entry: EscapedName::new(&entry.path), folder });
        }
        // The folder itself, which stays as it is.
        let Some(place) = self.place(&parts)? else { return Ok(()) };
        let stays = self.make_way(&place, entry)?;
        let made = match &entry.kind {
            EntryKind::Directory if stays => self.named(&place, FileType::Directory)?,
            _ => self.make(&place, entry, reader)?,
        };
        let owner = self.owner(entry)?;
        apply(&made, entry, owner).map_err(|(call, errno)| place.failed(call, errno))?;
        if entry.kind == EntryKind::Directory {
            self.times.remember(self.root, place.path, entry.mtime);
            return Ok(());
        }
        set_times(made.as_fd(), entry.mtime).map_err(|errno| place.failed("chtimes", errno))
    }

    fn shown_folder(&self) -> EscapedName {
        EscapedName::new(&[b"/".as_slice(), &self.prefix.join(&b'/')].concat())
    }

    /// Opens the folder that an entry goes to, which is made with mode 0755 if the archive does not have it.
    fn place(&self, parts: &[Vec<u8>]) -> Result<Option<Place>, FilesError> {
        let Some((name, parents)) = parts.split_last() else { return Ok(None) };
        let parents = [self.prefix.as_slice(), parents].concat();
        let path = [parents.as_slice(), std::slice::from_ref(name)].concat().join(&b'/');
        let parent = match find(self.root, &join(&parents), OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make_parents(&parents),
            found => found,
        };
        let parent = parent.map_err(|errno| FilesError::kernel("mkdir", &path, errno))?;
        // The reader has refused names with a zero byte.
        let name = CString::new(name.as_slice()).map_err(|error| FilesError::kernel("open", &path, error))?;
        Ok(Some(Place { parent, name, path }))
    }

    fn make_parents(&self, parents: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        let mut reached = find(self.root, b".", OFlags::DIRECTORY)?;
        for count in 1..=parents.len() {
            let path = join(&parents[..count]);
            reached = match find(self.root, &path, OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    let name = parents[count - 1].as_slice();
                    match mkdirat(&reached, name, Mode::from_raw_mode(0o755)) {
                        // A link that leads nowhere: found again, it is still nothing.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    find(self.root, &path, OFlags::DIRECTORY)?
                }
                found => found?,
            };
        }
        Ok(reached)
    }

    /// Removes what is in an entry's place, unless it is a folder for a folder, of which it says so.
    fn make_way(&self, place: &Place, entry: &Entry) -> Result<bool, FilesError> {
        let there = match rustix::fs::statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            there => there.map_err(|errno| place.failed("lstat", errno))?,
        };
        let is_folder = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        let wants_folder = entry.kind == EntryKind::Directory;
        if is_folder && wants_folder {
            return Ok(true);
        }
        if self.wishes.no_overwrite_dir_non_dir && is_folder != wants_folder {
            let (path, folder) = (place.shown(), self.shown_folder());
            return Err(match is_folder {
                true => FilesError::FolderInTheWay { path, folder },
                false => FilesError::OtherInTheWay { path, folder },
            });
        }
        remove_all(place.parent.as_fd(), &place.name).map_err(|errno| place.failed("unlinkat", errno))?;
        Ok(false)
    }

    fn file<R: TarInput>(
        &self,
        place: &Place,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&place.parent, &place.name, flags, Mode::from_raw_mode(0o600));
        let file = File::from(self.made("open", place, open)?);
        let failed = |error: std::io::Error| FilesError::kernel("write", &place.path, error);
        let whole = [Extent { offset: 0, length: entry.size }];
        for extent in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut offset, end) = (extent.offset, extent.offset.saturating_add(extent.length));
            while offset < end {
                let data = reader.fill_data()?;
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let count = data.len().min(left);
                if count == 0 {
                    break;
                }
                file.write_all_at(&data[..count], offset).map_err(failed)?;
                reader.consume_data(count);
                offset += count as u64;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).map_err(failed)?;
        }
        Ok(file.into())
    }

    /// Makes what an entry describes, and names it.
    fn make<R: TarInput>(
        &self,
        place: &Place,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<OwnedFd, FilesError> {
        let Place { parent, name, .. } = place;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let node = |kind, device| self.made("mknod", place, || mknodat(parent, name, kind, mode, device));
        match &entry.kind {
            EntryKind::File => self.file(place, entry, reader),
            EntryKind::Directory => {
                self.made("mkdir", place, || mkdirat(parent, name, mode))?;
                self.named(place, FileType::Directory)
            }
            EntryKind::Symlink(target) => {
                self.made("symlink", place, || symlinkat(target.as_slice(), parent, name))?;
                self.named(place, FileType::Symlink)
            }
            EntryKind::HardLink(target) => self.hard_link(place, entry, target),
            EntryKind::CharacterDevice { major, minor } => {
                node(FileType::CharacterDevice, device(entry, *major, *minor)?)?;
                self.named(place, FileType::CharacterDevice)
            }
            EntryKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, device(entry, *major, *minor)?)?;
                self.named(place, FileType::BlockDevice)
            }
            EntryKind::Fifo => {
                node(FileType::Fifo, 0)?;
                self.named(place, FileType::Fifo)
            }
        }
    }

    /// The target is below the folder that the archive goes to, whether it was in the archive or not.
    fn hard_link(&self, place: &Place, entry: &Entry, target: &[u8]) -> Result<OwnedFd, FilesError> {
        let (parts, climbs) = plain_parts(target);
        let Some((name, parents)) = parts.split_last().filter(|_| !climbs) else {
            let (entry, target) = (EscapedName::new(&entry.path), EscapedName::new(target));
            return Err(FilesError::LinkOutside { entry, target });
        };
        let parents = [self.prefix.as_slice(), parents].concat();
        let link = || {
            let folder = find(self.root, &join(&parents), OFlags::DIRECTORY)?;
            linkat(&folder, name.as_slice(), &place.parent, &place.name, AtFlags::empty())
        };
        self.made("link", place, link)?;
        self.open_named(place)
    }

    /// Names what was just made, and makes sure that it is that.
    fn named(&self, place: &Place, kind: FileType) -> Result<OwnedFd, FilesError> {
        let named = self.open_named(place)?;
        match file_type(named.as_fd()) {
            Ok(found) if found == kind => Ok(named),
            Ok(_) => Err(place.failed("lstat", Errno::EXIST)),
            Err(errno) => Err(place.failed("lstat", errno)),
        }
    }

    fn open_named(&self, place: &Place) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&place.parent, &place.name, flags, Mode::empty())
            .map_err(|errno| place.failed("lstat", errno))
    }

    /// Makes something where nothing was a moment ago; what has appeared there since goes first.
    fn made<T>(
        &self,
        call: &'static str,
        place: &Place,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, FilesError> {
        for _ in 0..MAX_RACES {
            match make() {
                Err(Errno::EXIST) => remove_all(place.parent.as_fd(), &place.name)
                    .map_err(|errno| place.failed("unlinkat", errno))?,
                Err(Errno::INTR) => {}
                made => return made.map_err(|errno| place.failed(call, errno)),
            }
        }
        Err(place.failed(call, Errno::EXIST))
    }

    fn owner(&self, entry: &Entry) -> Result<(Uid, Gid), FilesError> {
        if let Some(owner) = self.wishes.owner {
            return Ok(owner);
        }
        // The largest number means "leave it" to the kernel.
        let number = |value: u64, what| {
            u32::try_from(value)
                .ok()
                .filter(|number| *number != u32::MAX)
                .ok_or_else(|| FilesError::Number { entry: EscapedName::new(&entry.path), what })
        };
        Ok((Uid::from_raw(number(entry.uid, "owner")?), Gid::from_raw(number(entry.gid, "group")?)))
    }
}

impl Place {
    fn failed(&self, call: &'static str, errno: Errno) -> FilesError {
        FilesError::Kernel { call, path: self.shown(), source: errno.into() }
    }

    fn shown(&self) -> EscapedName {
        EscapedName::new(&[b"/".as_slice(), &self.path].concat())
    }
}

/// A device's number as Linux has it: 12 and 20 bits.
fn device(entry: &Entry, major: u64, minor: u64) -> Result<u64, FilesError> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok(makedev(major, minor)),
        _ => Err(FilesError::Number { entry: EscapedName::new(&entry.path), what: "device" }),
    }
}

/// Reads `input` to its end and forgets it.
///
/// # Errors
///
/// The input's.
pub(super) fn drain(mut input: impl Read) -> std::io::Result<()> {
    std::io::copy(&mut input, &mut std::io::sink()).map(drop)
}
