//! Unpacking what a container packed, which may be anything: nothing is written outside of the folder that was asked
//! for, whatever names and links the archive has, and nothing that is written gives anybody new rights.
//!
//! Names are resolved by the kernel beneath that folder (openat2(2), `RESOLVE_BENEATH`).

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use capsid_tar::{Entry, EntryKind, TarLimits, TarReader};
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Bytes that are read of an archive at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Bits of a mode that are taken over: not those that would run a stranger's program with the user's rights.
const SAFE_MODE_BITS: u32 = 0o1777;
/// All of them, for an archive copy.
const ALL_MODE_BITS: u32 = 0o7777;
/// Deepest name, in components.
const MAX_DEPTH: usize = 512;

/// How to unpack.
#[derive(Debug, Clone)]
pub(crate) struct Unpacking<'a> {
    /// The folder beneath which everything is written; it exists.
    pub(crate) folder: &'a Path,
    /// What the first component of each name becomes; without it, the component is dropped.
    pub(crate) name: Option<OsString>,
    /// Whether owners and all bits of modes are taken over.
    pub(crate) keeps_owners: bool,
}

/// Unpacks. The result is what could not be had and was left out.
///
/// # Errors
///
/// Those of the archive and of writing. What was written before stays.
pub(crate) fn unpack(input: impl Read, how: &Unpacking<'_>) -> io::Result<Vec<String>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::openat(CWD, how.folder, flags, Mode::empty())?;
    let mut reader =
        TarReader::new(BufReader::with_capacity(BUFFER_BYTES, input), TarLimits::default()).forgiving();
    let mut left_out = Vec::new();
    // Times of folders change with what is put into them: set at the end.
    let mut folders = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        let Some(components) = components(&entry.path, how)? else { continue };
        let Some((last, parents)) = components.split_last() else { continue };
        let parent = open_parent(root.as_fd(), parents)?;
        let made = make(parent.as_fd(), last, &entry, how, root.as_fd(), &mut reader);
        match made {
            Ok(true) => {}
            Ok(false) => left_out.push(String::from_utf8_lossy(&entry.path).into_owned()),
            Err(error) => {
                let name = String::from_utf8_lossy(&entry.path).into_owned();
                return Err(io::Error::new(error.kind(), format!("{name}: {error}")));
            }
        }
        if entry.kind == EntryKind::Directory {
            folders.push((components, entry));
        }
    }
    for (components, entry) in folders.iter().rev() {
        if let Ok(folder) = open_parent(root.as_fd(), components) {
            finish(folder.as_fd(), entry, how)?;
        }
    }
    Ok(left_out)
}

/// The components of a name with its first one replaced; nothing for what is dropped.
fn components(path: &[u8], how: &Unpacking<'_>) -> io::Result<Option<Vec<CString>>> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.len() > MAX_DEPTH || parts.contains(&&b".."[..]) {
        let name = String::from_utf8_lossy(path).into_owned();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{name}: the archive has a name that leads elsewhere"),
        ));
    }
    let Some((_, rest)) = parts.split_first() else { return Ok(None) };
    let first = how.name.clone().map(OsStringExt::into_vec);
    let all = first.into_iter().chain(rest.iter().map(|part| part.to_vec()));
    let components = all.map(CString::new).collect::<Result<Vec<_>, _>>()?;
    Ok((!components.is_empty()).then_some(components))
}

/// Opens a folder beneath `root`, folders on the way made if they are missing.
fn open_parent(root: BorrowedFd<'_>, parents: &[CString]) -> io::Result<OwnedFd> {
    let mut folder = root.try_clone_to_owned()?;
    let mut path = Vec::new();
    for part in parents {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(part.as_bytes());
        let whole = CString::new(path.clone())?;
        folder = match open_beneath(root, &whole) {
            Err(Errno::NOENT) => {
                fs::mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                open_beneath(root, &whole)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

fn open_beneath(root: BorrowedFd<'_>, path: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// Makes one entry. False: it is of a kind that is left out.
fn make<R: Read>(
    parent: BorrowedFd<'_>,
    name: &CString,
    entry: &Entry,
    how: &Unpacking<'_>,
    root: BorrowedFd<'_>,
    reader: &mut TarReader<BufReader<R>>,
) -> io::Result<bool> {
    match &entry.kind {
        EntryKind::Directory => make_folder(parent, name)?,
        EntryKind::File => {
            clear(parent, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
            copy_data(reader, entry, &mut file)?;
            finish(file.as_fd(), entry, how)?;
        }
        EntryKind::Symlink(target) => {
            clear(parent, name)?;
            fs::symlinkat(CString::new(target.clone())?, parent, name)?;
            if how.keeps_owners {
                let (uid, gid) = owner(entry)?;
                fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        EntryKind::HardLink(target) => {
            let Some(components) = components(target, how)? else { return Ok(false) };
            let Some((last, parents)) = components.split_last() else { return Ok(false) };
            let folder = open_parent(root, parents)?;
            clear(parent, name)?;
            fs::linkat(&folder, last, parent, name, AtFlags::empty())?;
        }
        EntryKind::Fifo => {
            clear(parent, name)?;
            fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(entry.mode & 0o777), 0)?;
        }
        // A device that a container names is this machine's here.
        EntryKind::CharacterDevice { .. } | EntryKind::BlockDevice { .. } => return Ok(false),
    }
    Ok(true)
}

fn make_folder(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {
            let found = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                return Ok(());
            }
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "cannot overwrite non-directory with directory"))
        }
        made => Ok(made?),
    }
}

/// Makes room for a new file, link or pipe: one that is there is replaced, and never written through.
fn clear(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "cannot overwrite directory with non-directory"))
        }
        Err(error) => Err(error.into()),
    }
}

fn copy_data<R: Read>(
    reader: &mut TarReader<BufReader<R>>,
    entry: &Entry,
    file: &mut File,
) -> io::Result<()> {
    if entry.sparse.is_some() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "sparse files are not unpacked"));
    }
    loop {
        let piece = reader.fill_data().map_err(io::Error::other)?;
        let count = piece.len();
        if count == 0 {
            return Ok(());
        }
        file.write_all(piece)?;
        reader.consume_data(count);
    }
}

/// Mode, owner, attributes and time of a file or folder.
fn finish(file: BorrowedFd<'_>, entry: &Entry, how: &Unpacking<'_>) -> io::Result<()> {
    if how.keeps_owners {
        let (uid, gid) = owner(entry)?;
        fs::fchown(file, Some(uid), Some(gid))?;
        for attribute in entry.xattrs.iter().filter(|attribute| attribute.name.starts_with(b"user.")) {
            // A file system without them is no failure.
            let _ = fs::fsetxattr(file, &*attribute.name, &attribute.value, XattrFlags::empty());
        }
    }
    let bits = if how.keeps_owners { ALL_MODE_BITS } else { SAFE_MODE_BITS };
    fs::fchmod(file, Mode::from_raw_mode(entry.mode & bits))?;
    let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanoseconds.into() };
    fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}

fn owner(entry: &Entry) -> io::Result<(Uid, Gid)> {
    let number = |number: u64| {
        let valid = u32::try_from(number).ok().filter(|number| *number != u32::MAX);
        valid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an owner that no file can have"))
    };
    Ok((Uid::from_raw(number(entry.uid)?), Gid::from_raw(number(entry.gid)?)))
}

#[cfg(test)]
mod tests {
    use std::fs as files;
    use std::os::unix::fs::{MetadataExt, symlink};

    use capsid_tar::{TarWriter, Timestamp};

    use super::*;

    fn entry(path: &str, kind: EntryKind, mode: u32, size: u64) -> Entry {
        let mtime = Timestamp { seconds: 1000, nanoseconds: 0 };
        let path = path.as_bytes().to_vec();
        Entry {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime,
            size,
            xattrs: Vec::new(),
            data_offset: 0,
            sparse: None,
        }
    }

    fn archive(entries: &[(&str, EntryKind, u32, &str)]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for (path, kind, mode, content) in entries {
            writer.entry(&entry(path, kind.clone(), *mode, content.len() as u64)).unwrap();
            if !content.is_empty() {
                writer.data(content.as_bytes()).unwrap();
            }
        }
        writer.finish().unwrap()
    }

    fn into(folder: &Path, name: Option<&str>, bytes: &[u8]) -> io::Result<Vec<String>> {
        unpack(bytes, &Unpacking { folder, name: name.map(OsString::from), keeps_owners: false })
    }

    #[test]
    fn a_tree_comes_out_under_its_new_name_without_bits_that_give_rights() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            ("src", EntryKind::Directory, 0o750, ""),
            ("src/a", EntryKind::File, 0o4755, "content"),
            ("src/b", EntryKind::HardLink(b"src/a".to_vec()), 0o755, ""),
            ("src/link", EntryKind::Symlink(b"/etc/passwd".to_vec()), 0o777, ""),
            ("src/null", EntryKind::CharacterDevice { major: 1, minor: 3 }, 0o666, ""),
            ("src/sub/deep", EntryKind::File, 0o600, "x"),
        ]);
        assert_eq!(into(folder.path(), Some("new"), &bytes).unwrap(), ["src/null"]);
        let new = folder.path().join("new");
        assert_eq!(files::read_to_string(new.join("b")).unwrap(), "content");
        let metadata = files::metadata(new.join("a")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o755, 1000));
        assert_eq!(
            (files::metadata(&new).unwrap().mode() & 0o7777, files::metadata(&new).unwrap().mtime()),
            (0o750, 1000)
        );
        assert_eq!(files::read_link(new.join("link")).unwrap(), Path::new("/etc/passwd"));
        let flat = tempfile::tempdir().unwrap();
        into(flat.path(), None, &bytes).unwrap();
        assert_eq!(files::read_to_string(flat.path().join("a")).unwrap(), "content");
    }

    #[test]
    fn nothing_is_written_elsewhere_whatever_the_archive_says() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        files::write(&victim, "safe").unwrap();
        let target = outside.path().as_os_str().as_encoded_bytes().to_vec();
        let through = |kind: EntryKind, path: &str| {
            archive(&[("s/out", kind, 0o777, ""), (path, EntryKind::File, 0o644, "evil")])
        };
        for bytes in [
            archive(&[("s/../../victim", EntryKind::File, 0o644, "evil")]),
            archive(&[("../victim", EntryKind::File, 0o644, "evil")]),
            through(EntryKind::Symlink(target.clone()), "s/out/victim"),
            through(EntryKind::Symlink(b"../../../../../../..".to_vec()), "s/out/victim"),
            archive(&[("s/hard", EntryKind::HardLink(b"s/../../victim".to_vec()), 0o644, "")]),
        ] {
            let folder = tempfile::tempdir_in(outside.path()).unwrap();
            assert!(into(folder.path(), Some("s"), &bytes).is_err());
            assert_eq!(files::read_to_string(&victim).unwrap(), "safe");
        }
    }

    #[test]
    fn a_link_that_is_in_the_way_is_replaced_and_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        files::write(&victim, "safe").unwrap();
        symlink(&victim, folder.path().join("s")).unwrap();
        into(folder.path(), Some("s"), &archive(&[("s", EntryKind::File, 0o644, "new")])).unwrap();
        assert_eq!(files::read_to_string(&victim).unwrap(), "safe");
        assert_eq!(files::read_to_string(folder.path().join("s")).unwrap(), "new");
    }
}
