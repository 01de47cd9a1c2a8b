//! What a stack of layers shows, by overlayfs's rules.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;

use crate::digest::{Digest, Hasher};
use crate::erofs::reader::{ErofsReadError, ErofsReader, Inode, ReadAt};
use crate::layer::notes::PathText;
use crate::layer::{self, LayerError};
use crate::limits::Limits;
use capsid_tar::EscapedName;

/// One name in the composed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Type and permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds past them.
    pub mtime_nanoseconds: u32,
    /// Names of this inode; 1 for folders.
    pub links: u32,
    /// Full names and values of attributes, without overlayfs's own.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A link's target.
    pub target: Option<Vec<u8>>,
    /// A device's number as Linux encodes it.
    pub device: u32,
    /// A file's size and digest.
    pub content: Option<(u64, Digest)>,
}

/// Composes EROFS images, bottom first. Paths have no slash in front; the root is empty.
pub fn compose(layers: &[File]) -> Result<BTreeMap<Vec<u8>, Composed>, Box<dyn std::error::Error>> {
    let mut readers = Vec::new();
    for layer in layers.iter().rev() {
        readers.push(ErofsReader::open(layer.try_clone()?)?);
    }
    Ok(compose_readers(&readers)?)
}

/// Converts a layer's tar stream in memory and shows it as the only layer of an image. Panics if the result cannot
/// be read back: for fuzzing.
pub fn convert(tar: &[u8], limits: &Limits) -> Result<BTreeMap<Vec<u8>, Composed>, LayerError> {
    let converted = layer::convert(tar, Cursor::new(Vec::new()), &std::env::temp_dir(), limits, &mut |_| ())?;
    let (output, notes) = converted
        .finish([1; 16])
        .map_err(|source| LayerError::Write { entry: EscapedName::new(b""), source })?;
    let image = output.into_inner();
    assert_eq!(image.len() as u64, notes.image_bytes, "size of the image");
    assert!(image.len().is_multiple_of(4096), "size in whole blocks");
    let reader = ErofsReader::open(image.as_slice()).unwrap_or_else(|error| panic!("{error}"));
    let composed = compose_readers(&[reader]).unwrap_or_else(|error| panic!("{error}"));
    let wrong = notes.implicit.iter().map(PathText::bytes).find(|path| !composed.contains_key(path));
    assert_eq!(wrong, None, "a folder that was made up and is not there");
    Ok(composed)
}

/// Topmost first.
fn compose_readers<R: ReadAt>(
    readers: &[ErofsReader<R>],
) -> Result<BTreeMap<Vec<u8>, Composed>, ErofsReadError> {
    let mut roots = Vec::new();
    for (index, reader) in readers.iter().enumerate() {
        roots.push((index, reader.root()?));
    }
    let mut found = BTreeMap::new();
    let mut waiting = vec![(Vec::new(), roots)];
    while let Some((path, folders)) = waiting.pop() {
        found.insert(path.clone(), describe(&readers[folders[0].0], &folders[0].1)?);
        // For each name what the layers have, topmost first.
        let mut names: BTreeMap<Vec<u8>, Vec<(usize, Inode)>> = BTreeMap::new();
        for (index, folder) in &folders {
            for (name, number) in readers[*index].list(folder)? {
                names.entry(name).or_default().push((*index, readers[*index].inode(number)?));
            }
        }
        for (name, candidates) in names {
            let child = if path.is_empty() { name } else { [path.as_slice(), b"/", &name].concat() };
            let first = &candidates[0];
            if first.1.is_whiteout() {
                continue;
            }
            if !first.1.is_directory() {
                found.insert(child, describe(&readers[first.0], &first.1)?);
                continue;
            }
            waiting.push((child, merged(candidates)));
        }
    }
    Ok(found)
}

/// The folders that show through, topmost first.
fn merged(candidates: Vec<(usize, Inode)>) -> Vec<(usize, Inode)> {
    let mut folders = Vec::new();
    for (index, inode) in candidates {
        if !inode.is_directory() {
            break;
        }
        let opaque = inode.is_opaque();
        folders.push((index, inode));
        if opaque {
            break;
        }
    }
    folders
}

fn describe<R: ReadAt>(reader: &ErofsReader<R>, inode: &Inode) -> Result<Composed, ErofsReadError> {
    let kind = inode.mode & 0o170_000;
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = inode.xattrs.iter().cloned().collect();
    xattrs.remove(b"trusted.overlay.opaque".as_slice());
    Ok(Composed {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime.seconds,
        mtime_nanoseconds: inode.mtime.nanoseconds,
        links: if inode.is_directory() { 1 } else { inode.links },
        xattrs,
        target: if kind == 0o120_000 { Some(reader.content(inode, 4096)?) } else { None },
        device: if matches!(kind, 0o020_000 | 0o060_000) { inode.union } else { 0 },
        content: if kind == 0o100_000 { Some(hash(reader, inode)?) } else { None },
    })
}

fn hash<R: ReadAt>(reader: &ErofsReader<R>, inode: &Inode) -> Result<(u64, Digest), ErofsReadError> {
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < inode.size {
        let step = usize::try_from(inode.size - offset).unwrap_or(usize::MAX).min(piece.len());
        reader.read(inode, offset, &mut piece[..step])?;
        hasher.update(&piece[..step]);
        offset += step as u64;
    }
    Ok((inode.size, hasher.finish().0))
}
