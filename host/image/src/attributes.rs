//! A top layer that makes folders look as they do when layers are unpacked over each other.
//!
//! overlayfs shows a folder with the attributes it has in the topmost layer that has it. Two things go wrong then:
//!
//! - A layer with `a/b` and no entry for `a` leaves the `a` of lower layers as it is; Docker and umoci keep its mode,
//!   owner, times and attributes. The layer's EROFS image needs some `a`, and its made-up attributes would win.
//! - Whiteouts in a folder that only one layer has are listed as files, because overlayfs filters them only while
//!   it merges. (Looking them up fails, so `ls` complains.)
//!
//! Both are repaired by one more layer on top, with nothing but folders: the right attributes for the first, a
//! second folder to merge with for the second. Most images need none.
//!
//! Called when an image is loaded, since it depends on the whole stack.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use crate::erofs::reader::{ErofsReadError, ErofsReader, Inode};
use crate::erofs::{Attributes, ErofsError, ErofsWriter, ROOT, encode_entries};
use crate::layer::notes::{Notes, PathText};

/// Why the top layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AttributesError {
    /// A layer of the image could not be read.
    #[error("failed to read a layer while comparing folders")]
    Read(#[from] ErofsReadError),
    /// The top layer could not be written.
    #[error("failed to write the layer of folder attributes")]
    Write(#[from] ErofsError),
}

/// One layer of the stack.
pub(crate) struct StackLayer<'a> {
    pub(crate) image: File,
    pub(crate) notes: &'a Notes,
}

/// What layers have at one path, topmost first, each with its layer's number.
#[derive(Clone, Default)]
struct Shown {
    /// The folders that overlayfs merges.
    folders: Vec<(usize, Inode)>,
    /// Folders below an opaque one. Their contents are hidden; their attributes still count.
    hidden: Vec<(usize, Inode)>,
}

/// A stack of layers, topmost first.
struct Stack {
    readers: Vec<ErofsReader<File>>,
    implicit: Vec<HashSet<Vec<u8>>>,
    whiteouts: Vec<HashSet<Vec<u8>>>,
    resolved: HashMap<Vec<u8>, Shown>,
}

/// The folders that need a place in the top layer, with their attributes and all folders above them. Empty if the
/// stack (bottom first) is right as it is.
pub(crate) fn repairs(layers: Vec<StackLayer<'_>>) -> Result<BTreeMap<Vec<u8>, Attributes>, AttributesError> {
    let paths = |paths: &[PathText]| paths.iter().map(PathText::bytes).collect::<HashSet<_>>();
    let mut stack =
        Stack { readers: Vec::new(), implicit: Vec::new(), whiteouts: Vec::new(), resolved: HashMap::new() };
    let mut candidates = BTreeSet::new();
    for layer in layers.into_iter().rev() {
        let (implicit, whiteouts) = (paths(&layer.notes.implicit), paths(&layer.notes.whiteouts));
        candidates.extend(implicit.iter().chain(&whiteouts).cloned());
        stack.readers.push(ErofsReader::open(layer.image)?);
        stack.implicit.push(implicit);
        stack.whiteouts.push(whiteouts);
    }
    let mut repairs = BTreeMap::new();
    for path in candidates {
        if stack.needs_repair(&path)? {
            for end in prefixes(&path) {
                let folder = &path[..end];
                if !repairs.contains_key(folder) {
                    let attributes = stack.effective(folder)?;
                    repairs.insert(folder.to_vec(), attributes);
                }
            }
        }
    }
    Ok(repairs)
}

/// Writes a layer of folders. The root and all parents must be among them.
pub(crate) fn write(
    repairs: BTreeMap<Vec<u8>, Attributes>,
    output: &mut File,
    scratch: &Path,
    uuid: [u8; 16],
) -> Result<u64, AttributesError> {
    let mut writer = ErofsWriter::new(output, scratch, u64::MAX)?;
    let mut folders = HashMap::from([(Vec::new(), ROOT)]);
    for (path, attributes) in repairs {
        if path.is_empty() {
            writer.tree.node_mut(ROOT).attributes = attributes;
            continue;
        }
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match slash {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        // Sorted paths bring every folder after the one it is in.
        if let Some(&parent) = folders.get(parent) {
            let id = writer.tree.insert_directory(parent, name, attributes, false)?;
            folders.insert(path, id);
        }
    }
    let (_, summary) = writer.finish(uuid)?;
    Ok(summary.bytes)
}

/// Ends of the path's leading folders: the root, every folder on the way, the path itself.
fn prefixes(path: &[u8]) -> Vec<usize> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
    let mut ends: Vec<usize> = std::iter::once(0).chain(slashes).collect();
    if !path.is_empty() {
        ends.push(path.len());
    }
    ends
}

impl Stack {
    fn needs_repair(&mut self, path: &[u8]) -> Result<bool, ErofsReadError> {
        let shown = self.shown(path)?;
        let Some((top, inode)) = shown.folders.first() else { return Ok(false) };
        if shown.folders.len() == 1 && self.whiteouts[*top].contains(path) {
            return Ok(true);
        }
        if !self.implicit[*top].contains(path) {
            return Ok(false);
        }
        Ok(self.described(path, &shown).is_some_and(|other| attributes(other) != attributes(inode)))
    }

    /// The attributes that unpacking would leave: those of the topmost layer that describes the folder.
    fn effective(&mut self, path: &[u8]) -> Result<Attributes, ErofsReadError> {
        let shown = self.shown(path)?;
        let first = shown.folders.first().map(|(_, inode)| inode);
        Ok(self.described(path, &shown).or(first).map_or_else(Attributes::implicit_directory, attributes))
    }

    /// The topmost folder that its layer describes.
    fn described<'s>(&self, path: &[u8], shown: &'s Shown) -> Option<&'s Inode> {
        let mut all = shown.folders.iter().chain(&shown.hidden);
        all.find(|(layer, _)| !self.implicit[*layer].contains(path)).map(|(_, inode)| inode)
    }

    /// The folders of a path that overlayfs would merge.
    fn shown(&mut self, path: &[u8]) -> Result<Shown, ErofsReadError> {
        if let Some(shown) = self.resolved.get(path) {
            return Ok(shown.clone());
        }
        let mut shown = Shown::default();
        let mut start = 0;
        for end in prefixes(path) {
            if let Some(known) = self.resolved.get(&path[..end]) {
                shown.clone_from(known);
            } else {
                shown = self.step(&shown, &path[start..end], end == 0)?;
                self.resolved.insert(path[..end].to_vec(), shown.clone());
            }
            start = if end == 0 { 0 } else { end + 1 };
        }
        Ok(shown)
    }

    fn step(&self, parent: &Shown, name: &[u8], root: bool) -> Result<Shown, ErofsReadError> {
        let mut shown = Shown::default();
        if root {
            for (layer, reader) in self.readers.iter().enumerate() {
                shown.folders.push((layer, reader.root()?));
            }
            return Ok(shown);
        }
        let mut opaque = false;
        for (layer, folder) in &parent.folders {
            let Some(inode) = self.readers[*layer].child(folder, name)? else { continue };
            if !inode.is_directory() {
                break;
            }
            let below = opaque;
            opaque |= inode.is_opaque();
            if below { shown.hidden.push((*layer, inode)) } else { shown.folders.push((*layer, inode)) }
        }
        Ok(shown)
    }
}

/// A folder's attributes without the mark of being opaque, which belongs to its layer.
fn attributes(inode: &Inode) -> Attributes {
    let kept = inode.xattrs.iter().filter(|(name, _)| name != b"trusted.overlay.opaque");
    let kept = kept.map(|(name, value)| (name.as_slice(), value.as_slice()));
    Attributes {
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        // They were stored before, so they can be stored again.
        xattrs: encode_entries(kept).unwrap_or_default(),
    }
}
