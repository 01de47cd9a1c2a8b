//! Packing files of this machine.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use capsid_tar::{Entry, EntryKind, TarWriter, Timestamp};

/// Bytes that are read of a file at once.
const BLOCK_BYTES: usize = 256 << 10;
/// Permission bits with setuid, setgid and sticky.
const MODE_BITS: u32 = 0o7777;

/// Packs a file or a tree under `name`; without a name, what is in a folder. Links are packed as links, but for `path`
/// itself if `follows`.
///
/// # Errors
///
/// Those of reading and writing; a file that changes while it is read.
pub(crate) fn pack(path: &Path, name: Option<&[u8]>, follows: bool, output: impl Write) -> io::Result<()> {
    let mut writer = TarWriter::new(output);
    let metadata = if follows { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    add(&mut writer, path, name.unwrap_or_default(), &metadata)?;
    writer.finish().map(drop)
}

fn add(writer: &mut TarWriter<impl Write>, path: &Path, name: &[u8], metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        if !name.is_empty() {
            writer.entry(&entry(name, EntryKind::Directory, metadata))?;
        }
        return add_children(writer, path, name);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path)?;
        return writer.entry(&entry(
            name,
            EntryKind::Symlink(target.as_os_str().as_bytes().to_vec()),
            metadata,
        ));
    }
    if kind.is_fifo() {
        return writer.entry(&entry(name, EntryKind::Fifo, metadata));
    }
    if kind.is_char_device() || kind.is_block_device() {
        let (major, minor) =
            (rustix::fs::major(metadata.rdev()).into(), rustix::fs::minor(metadata.rdev()).into());
        let kind = if kind.is_char_device() {
            EntryKind::CharacterDevice { major, minor }
        } else {
            EntryKind::BlockDevice { major, minor }
        };
        return writer.entry(&entry(name, kind, metadata));
    }
    if kind.is_socket() {
        // No archive can hold one.
        return Ok(());
    }
    writer.entry(&entry(name, EntryKind::File, metadata))?;
    copy_data(writer, path, metadata.len())
}

fn add_children(writer: &mut TarWriter<impl Write>, folder: &Path, name: &[u8]) -> io::Result<()> {
    let mut children = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let child_name = child.file_name();
        let full = if name.is_empty() {
            child_name.as_bytes().to_vec()
        } else {
            [name, b"/", child_name.as_bytes()].concat()
        };
        add(writer, &child.path(), &full, &fs::symlink_metadata(child.path())?)?;
    }
    Ok(())
}

fn copy_data(writer: &mut TarWriter<impl Write>, path: &Path, length: u64) -> io::Result<()> {
    let mut file = File::open(path)?.take(length);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            break;
        }
        writer.data(block.get(..count).unwrap_or_default())?;
    }
    if writer.remaining() > 0 {
        return Err(io::Error::other(format!("{} became shorter while it was read", path.display())));
    }
    Ok(())
}

fn entry(name: &[u8], kind: EntryKind, metadata: &Metadata) -> Entry {
    Entry {
        path: name.to_vec(),
        size: if kind == EntryKind::File { metadata.len() } else { 0 },
        kind,
        mode: metadata.mode() & MODE_BITS,
        uid: metadata.uid().into(),
        gid: metadata.gid().into(),
        mtime: Timestamp {
            seconds: metadata.mtime(),
            nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        xattrs: Vec::new(),
        data_offset: 0,
        sparse: None,
    }
}
