//! The image file: data as it comes, then folders, inodes and the superblock.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::checksum::crc32c;
use super::data::FileData;
use super::directory::Listing;
use super::tails::{TailReader, Tails};
use super::tree::{Content, Directory, NodeId, Tree};
use super::{
    BLOCK, BLOCK_BITS, BLOCK_SIZE, COMPAT_CHECKSUM, COMPAT_MTIME, ErofsError, FORMAT_EXTENDED,
    INCOMPAT_CHUNKED, INODE_BYTES, INODE_SIZE, LAYOUT_CHUNKED, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC,
    META_RESERVED, NULL_BLOCK, SLOT, SUPER_OFFSET, XATTR_ENTRY, XATTR_HEADER, encode_entry, round_up,
};

/// How much is gathered before it is written.
const WRITE_BUFFER: usize = 1 << 20;

/// Writes one image. Contents of files go through [`ErofsWriter::begin_file`] as they come; the tree is filled by
/// the caller; [`ErofsWriter::finish`] writes the rest. Until then the image is not valid, and after an error it
/// never will be: throw it away.
pub(crate) struct ErofsWriter<W: Write + Seek> {
    output: BufWriter<W>,
    position: u64,
    tails: Tails,
    /// All inodes so far.
    pub(crate) tree: Tree,
}

/// What [`ErofsWriter::finish`] wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// The image's size, a multiple of 4096.
    pub(crate) bytes: u64,
    /// Its inodes.
    pub(crate) inodes: u64,
}

/// Where one inode goes and what follows it.
#[derive(Clone, Copy, Default)]
struct Placement {
    /// Slot number from the start of the metadata area; what folders refer to.
    number: u64,
    size: u64,
    layout: u16,
    /// `i_u`: a block, a device number or a chunk format.
    union: u32,
    links: u32,
    /// Bytes of the inline tail.
    tail: usize,
}

impl<W: Write + Seek> ErofsWriter<W> {
    /// Starts an image at the start of `output`. Tails of files wait in `scratch` if they are many.
    pub(crate) fn new(output: W, scratch: &Path, metadata_limit: u64) -> Result<ErofsWriter<W>, ErofsError> {
        let output = BufWriter::with_capacity(WRITE_BUFFER, output);
        let tree = Tree::new(metadata_limit);
        let mut writer = ErofsWriter { output, position: 0, tails: Tails::new(scratch), tree };
        writer.write(&[0; BLOCK_SIZE])?;
        Ok(writer)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.output.write_all(bytes).map_err(ErofsError::Write)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn keep_tail(&mut self, tail: &[u8]) -> Result<u64, ErofsError> {
        self.tails.append(tail).map_err(ErofsError::Tails)
    }

    /// The block that comes next; only meaningful between blocks.
    pub(super) fn block_number(&self) -> Result<u32, ErofsError> {
        block_number(self.position)
    }

    /// Writes a symbolic link's target where it does not fit behind its inode.
    fn write_targets(&mut self) -> Result<Vec<(NodeId, u32)>, ErofsError> {
        let mut places = Vec::new();
        let tree = std::mem::replace(&mut self.tree, Tree::new(0));
        for (id, node) in (0..).zip(tree.nodes()) {
            if let Content::Symlink(target) = &node.content
                && node.links > 0
                && target.len() > inline_room(xattr_size(&node.attributes.xattrs, false))
            {
                places.push((id, self.block_number()?));
                self.write(target)?;
                self.pad()?;
            }
        }
        self.tree = tree;
        Ok(places)
    }

    fn pad(&mut self) -> Result<(), ErofsError> {
        let missing = self.position.wrapping_neg() % BLOCK;
        let zeros = [0; BLOCK_SIZE];
        self.write(&zeros[..usize::try_from(missing).unwrap_or(0)])
    }

    /// Writes everything but the data and returns the output, flushed but not synced. `uuid` should differ between
    /// images: overlayfs tells lower layers apart by it.
    pub(crate) fn finish(mut self, uuid: [u8; 16]) -> Result<(W, Summary), ErofsError> {
        let targets = self.write_targets()?;
        let mut layout =
            Layout { placements: Vec::new(), folders: self.block_number()?, next: META_RESERVED };
        layout.place_all(&self.tree, &targets)?;
        let numbers: Vec<u64> = layout.placements.iter().map(|placement| placement.number).collect();

        let tree = std::mem::replace(&mut self.tree, Tree::new(0));
        for (id, node) in live(&tree) {
            if let Content::Directory(directory) = &node.content {
                let placement = &layout.placements[id as usize];
                let skip_last = usize::from(placement.layout == LAYOUT_INLINE);
                self.write_folder(&tree, id, directory, &numbers, skip_last)?;
            }
        }
        let meta_block = self.block_number()?;
        let mut tails = std::mem::replace(&mut self.tails, Tails::new(Path::new("")))
            .into_reader()
            .map_err(ErofsError::Tails)?;
        let meta_start = self.position;
        let mut inodes = 0u32;
        for (id, node) in live(&tree) {
            let placement = layout.placements[id as usize];
            self.seek_forward(meta_start + placement.number * SLOT)?;
            let mut bytes = encode_inode(&tree, id, &placement, inodes);
            inodes += 1;
            match &node.content {
                Content::Directory(directory) if placement.tail > 0 => {
                    let listing = Listing::new(id, directory);
                    bytes.extend(listing.encode(&tree, &numbers).last().unwrap_or_default());
                }
                Content::Symlink(target) if placement.tail > 0 => bytes.extend_from_slice(target),
                Content::File(data) => append_file(&mut bytes, data, &mut tails)?,
                _ => {}
            }
            self.write(&bytes)?;
        }
        // erofs-utils before 1.6 read an attribute header behind every inode, whether it has one or not.
        self.write(&[0; XATTR_HEADER])?;
        self.pad()?;
        self.write_superblock(meta_block, inodes, &layout.placements, &tree, uuid)
    }

    fn seek_forward(&mut self, position: u64) -> Result<(), ErofsError> {
        let zeros = [0; BLOCK_SIZE];
        while self.position < position {
            let step = (position - self.position).min(BLOCK);
            self.write(&zeros[..usize::try_from(step).unwrap_or(0)])?;
        }
        Ok(())
    }

    fn write_folder(
        &mut self,
        tree: &Tree,
        id: NodeId,
        directory: &Directory,
        numbers: &[u64],
        skip_last: usize,
    ) -> Result<(), ErofsError> {
        let listing = Listing::new(id, directory);
        let count = usize::try_from(listing.extent().full_blocks).unwrap_or(0) + 1 - skip_last;
        for block in listing.encode(tree, numbers).take(count) {
            self.write(&block)?;
            self.pad()?;
        }
        Ok(())
    }

    fn write_superblock(
        self,
        meta_block: u32,
        inodes: u32,
        placements: &[Placement],
        tree: &Tree,
        uuid: [u8; 16],
    ) -> Result<(W, Summary), ErofsError> {
        let bytes = self.position;
        let blocks = block_number(bytes)?;
        let chunked = live(tree).any(|(id, _)| placements[id as usize].layout == LAYOUT_CHUNKED);
        // From the superblock to the end of its block: what the checksum covers.
        let mut block = [0u8; BLOCK_SIZE - SUPER_OFFSET];
        let mut put = |at: usize, field: &[u8]| block[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        // The root is placed first: at most one block into the area.
        let root = placements.first().map_or(0, |placement| placement.number);
        put(14, &u16::try_from(root).unwrap_or(0).to_le_bytes());
        put(16, &u64::from(inodes).to_le_bytes());
        put(36, &blocks.to_le_bytes());
        put(40, &meta_block.to_le_bytes());
        put(48, &uuid);
        put(80, &(if chunked { INCOMPAT_CHUNKED } else { 0 }).to_le_bytes());
        let checksum = crc32c(!0, &block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());

        let into_inner = |error: io::IntoInnerError<BufWriter<W>>| ErofsError::Write(error.into_error());
        let mut output = self.output.into_inner().map_err(into_inner)?;
        output
            .seek(SeekFrom::Start(SUPER_OFFSET as u64))
            .and_then(|_| output.write_all(&block))
            .map_err(ErofsError::Write)?;
        Ok((output, Summary { bytes, inodes: u64::from(inodes) }))
    }
}

/// Decides where inodes and large folders go.
struct Layout {
    placements: Vec<Placement>,
    /// The next block for folders.
    folders: u32,
    /// The next free byte of the metadata area.
    next: u64,
}

impl Layout {
    fn place_all(&mut self, tree: &Tree, targets: &[(NodeId, u32)]) -> Result<(), ErofsError> {
        self.placements = vec![Placement::default(); tree.nodes().len()];
        let mut targets = targets.iter().peekable();
        for (id, node) in live(tree) {
            let opaque = matches!(&node.content, Content::Directory(directory) if directory.opaque);
            let xattrs = xattr_size(&node.attributes.xattrs, opaque);
            let mut placement = match &node.content {
                Content::Directory(directory) => self.folder(tree, id, directory, xattrs)?,
                Content::Symlink(target) => {
                    let size = target.len() as u64;
                    match targets.next_if(|(other, _)| *other == id) {
                        Some((_, block)) => Placement { size, union: *block, ..Placement::default() },
                        None => Placement {
                            size,
                            layout: LAYOUT_INLINE,
                            tail: target.len(),
                            ..Default::default()
                        },
                    }
                }
                Content::File(FileData::Flat { size, block, tail }) => {
                    let tail = tail.map_or(0, |_| usize::try_from(size % BLOCK).unwrap_or(0));
                    let layout = if tail > 0 { LAYOUT_INLINE } else { LAYOUT_PLAIN };
                    Placement { size: *size, layout, union: *block, tail, ..Placement::default() }
                }
                Content::File(FileData::Chunked { size, bits, .. }) => {
                    let union = bits - u32::from(BLOCK_BITS);
                    Placement { size: *size, layout: LAYOUT_CHUNKED, union, ..Placement::default() }
                }
                Content::CharacterDevice(number) | Content::BlockDevice(number) => {
                    Placement { union: *number, ..Placement::default() }
                }
                Content::Fifo => Placement::default(),
            };
            if placement.links == 0 {
                placement.links = node.links;
            }
            self.assign(&mut placement, &node.content, xattrs);
            self.placements[id as usize] = placement;
        }
        Ok(())
    }

    fn folder(
        &mut self,
        tree: &Tree,
        id: NodeId,
        directory: &Directory,
        xattrs: usize,
    ) -> Result<Placement, ErofsError> {
        let extent = Listing::new(id, directory).extent();
        let inline = extent.last <= inline_room(xattrs);
        let blocks = extent.full_blocks + u64::from(!inline);
        let first = self.folders;
        let end = u64::from(first) + blocks;
        self.folders = u32::try_from(end).map_err(|_| ErofsError::ImageTooLarge)?;
        let subfolders =
            directory.children.values().filter(|&&child| tree.directory(child).is_some()).count();
        Ok(Placement {
            size: extent.full_blocks * BLOCK + extent.last as u64,
            layout: if inline { LAYOUT_INLINE } else { LAYOUT_PLAIN },
            union: first,
            links: u32::try_from(subfolders + 2).unwrap_or(u32::MAX),
            tail: if inline { extent.last } else { 0 },
            ..Placement::default()
        })
    }

    fn assign(&mut self, placement: &mut Placement, content: &Content, xattrs: usize) {
        let chunks = match content {
            Content::File(FileData::Chunked { chunks, .. }) => chunks.len() as u64 * 4,
            _ => 0,
        };
        let length = INODE_SIZE + xattrs as u64 + placement.tail as u64 + chunks;
        let mut start = round_up(self.next, SLOT);
        // An inline tail must not cross blocks; it is at most as large as fits with its inode.
        if placement.tail > 0 && start % BLOCK + length > BLOCK {
            start = round_up(start, BLOCK);
        }
        placement.number = start / SLOT;
        self.next = start + length;
    }
}

fn live(tree: &Tree) -> impl Iterator<Item = (NodeId, &super::tree::Node)> {
    (0..).zip(tree.nodes()).filter(|(_, node)| node.links > 0)
}

fn block_number(position: u64) -> Result<u32, ErofsError> {
    match u32::try_from(position / BLOCK) {
        Ok(number) if number < NULL_BLOCK => Ok(number),
        _ => Err(ErofsError::ImageTooLarge),
    }
}

/// How many bytes fit into a block behind an inode and its attributes.
pub(crate) fn inline_room(xattrs: usize) -> usize {
    (BLOCK_SIZE - INODE_BYTES).saturating_sub(xattrs)
}

/// Bytes of the attribute area behind an inode.
pub(crate) fn xattr_size(encoded: &[u8], opaque: bool) -> usize {
    let opaque = if opaque { opaque_entry().len() } else { 0 };
    match encoded.len() + opaque {
        0 => 0,
        size => XATTR_HEADER + size,
    }
}

/// overlayfs's mark of a folder that hides what lies below.
fn opaque_entry() -> Vec<u8> {
    let mut encoded = Vec::new();
    // The name and value are valid; see the tests of `encode_entry`.
    let _ = encode_entry(&mut encoded, b"trusted.overlay.opaque", b"y");
    encoded
}

fn encode_inode(tree: &Tree, id: NodeId, placement: &Placement, serial: u32) -> Vec<u8> {
    let node = tree.node(id);
    let attributes = &node.attributes;
    let opaque = matches!(&node.content, Content::Directory(directory) if directory.opaque);
    let xattrs = xattr_size(&attributes.xattrs, opaque);
    let xattr_count = match xattrs {
        0 => 0,
        // Bounded by `Limits::max_xattr_bytes`, see `layer::attributes`.
        size => u16::try_from((size - XATTR_HEADER) / XATTR_ENTRY + 1).unwrap_or(u16::MAX),
    };
    let mut bytes = Vec::with_capacity(INODE_BYTES + xattrs);
    bytes.extend_from_slice(&(FORMAT_EXTENDED | placement.layout << 1).to_le_bytes());
    bytes.extend_from_slice(&xattr_count.to_le_bytes());
    bytes.extend_from_slice(&(node.content.type_bits() | attributes.mode).to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&placement.size.to_le_bytes());
    bytes.extend_from_slice(&placement.union.to_le_bytes());
    bytes.extend_from_slice(&(serial + 1).to_le_bytes());
    bytes.extend_from_slice(&attributes.uid.to_le_bytes());
    bytes.extend_from_slice(&attributes.gid.to_le_bytes());
    bytes.extend_from_slice(&attributes.mtime.seconds.to_le_bytes());
    bytes.extend_from_slice(&attributes.mtime.nanoseconds.to_le_bytes());
    bytes.extend_from_slice(&placement.links.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    if xattrs > 0 {
        bytes.extend_from_slice(&[0; XATTR_HEADER]);
        bytes.extend_from_slice(&attributes.xattrs);
        if opaque {
            bytes.extend_from_slice(&opaque_entry());
        }
    }
    bytes
}

/// What follows a file's inode: the tail of its content or the list of its chunks.
fn append_file(bytes: &mut Vec<u8>, data: &FileData, tails: &mut TailReader) -> Result<(), ErofsError> {
    match data {
        FileData::Flat { size, tail: Some(position), .. } => {
            let start = bytes.len();
            bytes.resize(start + usize::try_from(size % BLOCK).unwrap_or(0), 0);
            tails.read(*position, &mut bytes[start..]).map_err(ErofsError::Tails)
        }
        FileData::Flat { tail: None, .. } => Ok(()),
        FileData::Chunked { chunks, .. } => {
            bytes.extend(chunks.iter().flat_map(|block| block.to_le_bytes()));
            Ok(())
        }
    }
}
