//! OCI's rules for layers, applied to one entry after another.
//!
//! - A later entry of one name replaces an earlier one, as unpacking would; folders merge.
//! - `.wh.NAME` hides NAME of lower layers. It never hides an entry of its own layer, whichever comes first; a
//!   folder that the layer also provides becomes opaque, because what was below it is gone.
//! - `.wh..wh..opq` makes its folder opaque. Other `.wh..wh.` names are AUFS's own and are skipped.
//! - Folders that are needed but not described are made up, and remembered as such: see [`super::notes`].

use std::io::{Seek, Write};
use std::path::Path;

use super::notes::Notes;
use super::path::components;
use super::{LayerError, LayerProblem};
use crate::erofs::{
    Attributes, Content, ErofsError, ErofsWriter, FileData, NodeId, ROOT, XattrProblem, encode_entries,
    inline_room, xattr_size,
};
use crate::limits::Limits;
use capsid_tar::EscapedName;
use capsid_tar::{Entry, EntryKind, TarInput, TarReader, Xattr};

/// What every whiteout starts with.
const WHITEOUT: &[u8] = b".wh.";
/// What AUFS's own files start with.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// The mark of an opaque folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Attributes with this prefix steer overlayfs.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// The longest target of a symbolic link: PATH_MAX without its NUL.
const MAX_TARGET: usize = 4095;
/// The most that an inode's attribute count can state.
const MAX_XATTR_AREA: usize = 12 + 4 * (u16::MAX as usize - 1);

/// A converted layer whose superblock is still missing: the image gets its name first.
pub(crate) struct Converted<W: Write + Seek> {
    writer: ErofsWriter<W>,
    notes: Notes,
}

impl<W: Write + Seek> Converted<W> {
    /// Writes the rest of the image. Only then are its size and notes known.
    pub(crate) fn finish(mut self, uuid: [u8; 16]) -> Result<(W, Notes), ErofsError> {
        self.notes.describe(&self.writer.tree);
        let (output, summary) = self.writer.finish(uuid)?;
        self.notes.image_bytes = summary.bytes;
        self.notes.inodes = summary.inodes;
        Ok((output, self.notes))
    }
}

/// Reads a whole tar stream and writes its contents to `output`. Long attributes that Linux has no place for are
/// named to `warn` and left out.
pub(crate) fn convert<R: TarInput, W: Write + Seek>(
    input: R,
    output: W,
    scratch: &Path,
    limits: &Limits,
    warn: &mut dyn FnMut(String),
) -> Result<Converted<W>, LayerError> {
    let start = EscapedName::new(b"");
    let writer = ErofsWriter::new(output, scratch, limits.max_metadata_bytes)
        .map_err(|source| LayerError::Write { entry: start, source })?;
    let mut builder = Builder { writer, limits, whiteouts: Vec::new(), content_bytes: 0, warn };
    let mut reader = TarReader::new(input, limits.tar());
    let mut entries = 0;
    while let Some(entry) = reader.next_entry().map_err(LayerError::Tar)? {
        entries += 1;
        if entries > limits.max_entries {
            let entry = EscapedName::new(&entry.path);
            return Err(LayerError::TooManyEntries { limit: limits.max_entries, entry });
        }
        builder.entry(&entry, &mut reader).map_err(|error| error.at(&entry.path))?;
    }
    builder.apply_whiteouts().map_err(|error| error.at(b""))?;
    let notes =
        Notes { tar_bytes: reader.offset(), content_bytes: builder.content_bytes, ..Notes::default() };
    Ok(Converted { writer: builder.writer, notes })
}

/// An error before its entry's name is added.
enum EntryError {
    Problem(LayerProblem),
    Tar(capsid_tar::TarError),
    Write(ErofsError),
}

impl EntryError {
    fn at(self, path: &[u8]) -> LayerError {
        let entry = EscapedName::new(path);
        match self {
            EntryError::Problem(problem) => LayerError::Entry { entry, problem },
            EntryError::Tar(error) => LayerError::Tar(error),
            EntryError::Write(source) => LayerError::Write { entry, source },
        }
    }
}

impl From<LayerProblem> for EntryError {
    fn from(problem: LayerProblem) -> EntryError {
        EntryError::Problem(problem)
    }
}

impl From<ErofsError> for EntryError {
    fn from(error: ErofsError) -> EntryError {
        EntryError::Write(error)
    }
}

struct Builder<'a, W: Write + Seek> {
    writer: ErofsWriter<W>,
    limits: &'a Limits,
    /// Folder and hidden name; applied at the end, so that the order of entries does not matter.
    whiteouts: Vec<(NodeId, Box<[u8]>)>,
    content_bytes: u64,
    warn: &'a mut dyn FnMut(String),
}

impl<W: Write + Seek> Builder<'_, W> {
    fn entry<R: TarInput>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), EntryError> {
        let path = components(&entry.path, self.limits)?;
        let Some((&name, parents)) = path.split_last() else {
            return self.root(entry);
        };
        if path.iter().any(|part| part.starts_with(WHITEOUT_META) && *part != OPAQUE) {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(LayerProblem::Whiteout.into());
        }
        let parent = self.parent(parents)?;
        if name == OPAQUE {
            if let Some(directory) = self.writer.tree.directory_mut(parent) {
                directory.opaque = true;
            }
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT) {
            Some(hidden) => self.whiteout(parent, hidden),
            None => self.place(entry, parent, name, reader),
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), EntryError> {
        match entry.kind {
            EntryKind::Directory => {
                let attributes = self.attributes(entry)?;
                self.describe_directory(ROOT, attributes);
                Ok(())
            }
            _ => Err(LayerProblem::RootNotDirectory.into()),
        }
    }

    /// Finds the folder that an entry goes into, and makes up what is missing on the way.
    fn parent(&mut self, parents: &[&[u8]]) -> Result<NodeId, EntryError> {
        let mut current = ROOT;
        for (depth, name) in parents.iter().enumerate() {
            current = match self.writer.tree.child(current, name) {
                Some(child) if self.writer.tree.directory(child).is_some() => child,
                Some(_) => {
                    let path = EscapedName::new(&parents[..=depth].join(&b'/'));
                    return Err(LayerProblem::ParentNotDirectory(path).into());
                }
                None => {
                    let attributes = Attributes::implicit_directory();
                    // The notes will have its whole path, and a long path can need very many such folders.
                    let path: usize = parents[..=depth].iter().map(|part| part.len() + 1).sum();
                    self.writer.tree.charge(path as u64)?;
                    self.writer.tree.insert_directory(current, name, attributes, true)?
                }
            };
        }
        Ok(current)
    }

    fn whiteout(&mut self, parent: NodeId, hidden: &[u8]) -> Result<(), EntryError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerProblem::Whiteout.into());
        }
        self.writer.tree.charge(hidden.len() as u64 + 32)?;
        self.whiteouts.push((parent, hidden.into()));
        Ok(())
    }

    fn apply_whiteouts(&mut self) -> Result<(), EntryError> {
        let attributes = Attributes { mode: 0, ..Attributes::implicit_directory() };
        for (parent, name) in std::mem::take(&mut self.whiteouts) {
            let tree = &mut self.writer.tree;
            // The folder may have been replaced since, and below an opaque one there is nothing to hide.
            if tree.node(parent).links == 0 || tree.directory(parent).is_none_or(|directory| directory.opaque)
            {
                continue;
            }
            match tree.child(parent, &name) {
                Some(child) => {
                    // A new folder in the place of one that is gone takes over nothing from it.
                    if let Some(directory) = tree.directory_mut(child) {
                        (directory.opaque, directory.implicit) = (true, false);
                    }
                }
                None => {
                    tree.insert(parent, &name, attributes.clone(), Content::WHITEOUT)?;
                }
            }
        }
        Ok(())
    }

    fn place<R: TarInput>(
        &mut self,
        entry: &Entry,
        parent: NodeId,
        name: &[u8],
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        if let EntryKind::HardLink(target) = &entry.kind {
            let target = self.hard_link_target(target)?;
            return Ok(self.writer.tree.link(parent, name, target)?);
        }
        let mut attributes = self.attributes(entry)?;
        let content = match &entry.kind {
            EntryKind::Directory => {
                match self.writer.tree.child(parent, name) {
                    Some(child) if self.writer.tree.directory(child).is_some() => {
                        self.describe_directory(child, attributes);
                    }
                    _ => {
                        self.writer.tree.insert_directory(parent, name, attributes, false)?;
                    }
                }
                return Ok(());
            }
            EntryKind::File => Content::File(self.file(entry, &attributes, reader)?),
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(LayerProblem::SymlinkTarget.into());
                }
                // What every file system on Linux shows for a link.
                attributes.mode = 0o777;
                Content::Symlink(target.as_slice().into())
            }
            EntryKind::CharacterDevice { major, minor } => Content::CharacterDevice(device(*major, *minor)?),
            EntryKind::BlockDevice { major, minor } => Content::BlockDevice(device(*major, *minor)?),
            EntryKind::Fifo | EntryKind::HardLink(_) => Content::Fifo,
        };
        self.writer.tree.insert(parent, name, attributes, content)?;
        Ok(())
    }

    fn describe_directory(&mut self, id: NodeId, attributes: Attributes) {
        self.writer.tree.node_mut(id).attributes = attributes;
        if let Some(directory) = self.writer.tree.directory_mut(id) {
            directory.implicit = false;
        }
    }

    fn hard_link_target(&self, target: &[u8]) -> Result<NodeId, LayerProblem> {
        let shown = || EscapedName::new(target);
        let path = components(target, self.limits)
            .map_err(|problem| LayerProblem::HardLinkName { target: shown(), problem: Box::new(problem) })?;
        let found = path.iter().try_fold(ROOT, |current, name| self.writer.tree.child(current, name));
        match found {
            Some(id) if self.writer.tree.directory(id).is_some() => {
                Err(LayerProblem::HardLinkDirectory(shown()))
            }
            Some(id) => Ok(id),
            None => Err(LayerProblem::HardLinkMissing(shown())),
        }
    }

    fn file<R: TarInput>(
        &mut self,
        entry: &Entry,
        attributes: &Attributes,
        reader: &mut TarReader<R>,
    ) -> Result<FileData, EntryError> {
        self.content_bytes = self.content_bytes.saturating_add(entry.size);
        let mut file = self.writer.begin_file(entry.size)?;
        let mut extents = entry.sparse.iter().flatten().peekable();
        let mut position = 0;
        loop {
            // A plain file is one extent that covers all of it.
            let left = match (&entry.sparse, extents.peek()) {
                (None, _) => u64::MAX,
                (Some(_), Some(extent)) => {
                    self.writer.write_hole(&mut file, extent.offset.saturating_sub(position))?;
                    position = position.max(extent.offset);
                    extent.offset + extent.length - position
                }
                (Some(_), None) => 0,
            };
            let data = reader.fill_data().map_err(EntryError::Tar)?;
            let step = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if step == 0 && (data.is_empty() || extents.next().is_none()) {
                break;
            }
            self.writer.write_file(&mut file, &data[..step])?;
            reader.consume_data(step);
            position += step as u64;
        }
        self.writer.write_hole(&mut file, entry.size - position)?;
        Ok(self.writer.end_file(file, inline_room(xattr_size(&attributes.xattrs, false)))?)
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, EntryError> {
        let owner = |id| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        let (Some(uid), Some(gid)) = (owner(entry.uid), owner(entry.gid)) else {
            return Err(LayerProblem::Owner { uid: entry.uid, gid: entry.gid }.into());
        };
        // The reader masks the mode to twelve bits.
        let mode = u16::try_from(entry.mode & 0o7777).unwrap_or(0);
        Ok(Attributes { mode, uid, gid, mtime: entry.mtime, xattrs: self.xattrs(entry)? })
    }

    fn xattrs(&mut self, entry: &Entry) -> Result<Box<[u8]>, EntryError> {
        let mut kept: Vec<(Vec<u8>, &[u8])> = Vec::with_capacity(entry.xattrs.len());
        for Xattr { name, value } in &entry.xattrs {
            let stored = match name.strip_prefix(OVERLAY) {
                // Shown as `trusted.overlay.` again by overlayfs since Linux 6.7, and without effect.
                Some(rest) => [OVERLAY, b"overlay.", rest].concat(),
                None => name.clone(),
            };
            match encode_entries([(stored.as_slice(), value.as_slice())]) {
                Ok(_) => kept.push((stored, value)),
                // Docker leaves out what the file system has no place for.
                Err(XattrProblem::Namespace) => {
                    let (name, entry) = (EscapedName::new(name), EscapedName::new(&entry.path));
                    (self.warn)(format!("entry {entry}: extended attribute {name} is left out"));
                }
                Err(problem) => {
                    return Err(LayerProblem::Xattr { name: EscapedName::new(name), problem }.into());
                }
            }
        }
        kept.sort();
        let encoded = encode_entries(kept.iter().map(|(name, value)| (name.as_slice(), *value)));
        let encoded = encoded
            .map_err(|problem| LayerProblem::Xattr { name: EscapedName::new(&entry.path), problem })?;
        if xattr_size(&encoded, true) > MAX_XATTR_AREA {
            return Err(LayerProblem::XattrsTooLarge(MAX_XATTR_AREA).into());
        }
        Ok(encoded)
    }
}

/// Linux's `new_encode_dev`.
fn device(major: u64, minor: u64) -> Result<u32, LayerProblem> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => {
            Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
        }
        _ => Err(LayerProblem::Device { major, minor }),
    }
}
