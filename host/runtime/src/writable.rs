//! The writable layer: a sparse raw file with an ext4 file system, cloned from a pre-formatted template.
//!
//! The host never mounts or probes what is in it once a guest has had it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Why a writable layer could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum WritableError {
    /// The template or an existing layer cannot be opened.
    #[error("failed to open {}", .path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The copy could not be made; what there was of it is removed.
    #[error("failed to make the writable layer {}", .path.display())]
    Clone {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Clones the template to `path`, which must not exist: shares its blocks where the file system can, and copies
/// only what is allocated where it cannot.
///
/// # Errors
///
/// Nothing is left at `path`.
pub fn clone_template(template: &Path, path: &Path) -> Result<File, WritableError> {
    let source = open_template(template)?;
    let failed = |source| WritableError::Clone { path: path.to_owned(), source };
    let target =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    if let Err(error) = clone_blocks(&source, &target) {
        // The reason for the failure matters more than a second failure to remove.
        let _ = std::fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(target)
}

/// Opens a container's writable layer, which is cloned from the template if there is none yet. A crash in the middle
/// leaves a draft that the next call replaces.
///
/// # Errors
///
/// There is a layer or none, and never half of one.
pub fn open_or_clone(template: &Path, path: &Path) -> Result<File, WritableError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(WritableError::Open { path: path.to_owned(), source }),
    }
    let draft = path.with_extension("new");
    let failed = |source| WritableError::Clone { path: path.to_owned(), source };
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = clone_template(template, &draft)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    Ok(file)
}

fn open_template(template: &Path) -> Result<File, WritableError> {
    File::open(template).map_err(|source| WritableError::Open { path: template.to_owned(), source })
}

fn clone_blocks(source: &File, target: &File) -> io::Result<()> {
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    ftruncate(target, length)?;
    let mut position = 0;
    while let Some((start, end)) = next_data(source, position)? {
        copy_range(source, target, start, end)?;
        position = end;
    }
    Ok(())
}

/// The next allocated range of `file` at or after `position`.
fn next_data(file: &File, position: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((start, seek(file, SeekFrom::Hole(start))?)))
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut offset = start;
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let (mut from, mut to) = (offset, offset);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => offset += count as u64,
            // Not between these two file systems: by hand, block by block.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                let mut block = vec![0; wanted.min(1 << 16)];
                source.read_exact_at(&mut block, offset)?;
                target.write_all_at(&block, offset)?;
                offset += block.len() as u64;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_clone_has_the_data_and_keeps_the_holes() {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("template");
        let file = File::create(&template).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"far away", 700 << 20).unwrap();
        drop(file);

        let clone = clone_template(&template, &folder.path().join("clone")).unwrap();
        let mut text = [0; 8];
        clone.read_exact_at(&mut text, 700 << 20).unwrap();
        assert_eq!(&text, b"far away");
        let metadata = clone.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        assert!(
            clone_template(&template, &folder.path().join("clone")).is_err(),
            "an existing layer is never replaced"
        );
    }
}
