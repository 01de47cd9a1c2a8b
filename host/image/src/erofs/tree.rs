//! The file system's tree in memory: everything but the contents of files.

use std::collections::BTreeMap;

use super::data::FileData;
use super::{ErofsError, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use capsid_tar::Timestamp;

/// A node of a [`Tree`]; never reused, so it is also the order of creation.
pub(crate) type NodeId = u32;

/// The root folder.
pub(crate) const ROOT: NodeId = 0;

/// What one node costs besides its name and attributes, as counted against the limit on memory.
const NODE_COST: u64 = 128;

/// What every inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with setuid, setgid and sticky; no type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// As [`super::encode_entries`] makes them.
    pub(crate) xattrs: Box<[u8]>,
}

impl Attributes {
    /// What a folder gets that no entry describes.
    pub(crate) fn implicit_directory() -> Attributes {
        Attributes { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Box::default() }
    }
}

/// A folder.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: NodeId,
    pub(crate) children: BTreeMap<Box<[u8]>, NodeId>,
    /// Hides what lower layers have here.
    pub(crate) opaque: bool,
    /// No entry described it: it is there because something is in it.
    pub(crate) implicit: bool,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    File(FileData),
    Symlink(Box<[u8]>),
    /// A device by its encoded number; a character device with number 0 is overlayfs's whiteout.
    CharacterDevice(u32),
    BlockDevice(u32),
    Fifo,
}

impl Content {
    /// overlayfs's mark of a deleted name.
    pub(crate) const WHITEOUT: Content = Content::CharacterDevice(0);

    pub(super) fn type_bits(&self) -> u16 {
        match self {
            Content::Directory(_) => S_IFDIR,
            Content::File(_) => S_IFREG,
            Content::Symlink(_) => S_IFLNK,
            Content::CharacterDevice(_) => S_IFCHR,
            Content::BlockDevice(_) => S_IFBLK,
            Content::Fifo => S_IFIFO,
        }
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        matches!(self, Content::CharacterDevice(0))
    }
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    /// Names of anything but a folder; 0 once the last is gone. Folders have 1 or 0.
    pub(crate) links: u32,
    pub(crate) content: Content,
}

/// All inodes. The caller resolves names; the tree keeps counts right.
pub(crate) struct Tree {
    nodes: Vec<Node>,
    metadata: u64,
    metadata_limit: u64,
}

impl Tree {
    /// An implicit root and nothing else.
    pub(crate) fn new(metadata_limit: u64) -> Tree {
        let root = Directory { parent: ROOT, children: BTreeMap::new(), opaque: false, implicit: true };
        let root = Node {
            attributes: Attributes::implicit_directory(),
            links: 1,
            content: Content::Directory(root),
        };
        Tree { nodes: vec![root], metadata: 0, metadata_limit }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(parent)?.children.get(name).copied()
    }

    /// Counts memory that does not shrink again; also what the caller keeps beside the tree.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), ErofsError> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > self.metadata_limit {
            return Err(ErofsError::MetadataLimit(self.metadata_limit));
        }
        Ok(())
    }

    /// Puts a new node under `parent`, in the place of whatever had that name.
    pub(crate) fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId, ErofsError> {
        let own = match &content {
            Content::Symlink(target) => target.len() as u64,
            Content::File(data) => data.memory(),
            _ => 0,
        };
        self.charge(NODE_COST + (name.len() + attributes.xattrs.len()) as u64 + own)?;
        let id = NodeId::try_from(self.nodes.len()).map_err(|_| ErofsError::TooManyInodes)?;
        self.nodes.push(Node { attributes, links: 1, content });
        self.place(parent, name, id);
        Ok(id)
    }

    /// Puts an empty folder under `parent`.
    pub(crate) fn insert_directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        implicit: bool,
    ) -> Result<NodeId, ErofsError> {
        let directory = Directory { parent, children: BTreeMap::new(), opaque: false, implicit };
        self.insert(parent, name, attributes, Content::Directory(directory))
    }

    /// Gives `target`, which is no folder, one more name.
    pub(crate) fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), ErofsError> {
        if self.child(parent, name) == Some(target) {
            return Ok(());
        }
        self.charge(NODE_COST + name.len() as u64)?;
        self.node_mut(target).links += 1;
        self.place(parent, name, target);
        Ok(())
    }

    fn place(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        let Some(directory) = self.directory_mut(parent) else { return };
        if let Some(old) = directory.children.insert(name.into(), id) {
            self.release(old);
        }
    }

    /// Takes a name away from a node, and everything below it. Iterative: depth comes from strangers.
    fn release(&mut self, id: NodeId) {
        let mut waiting = vec![id];
        while let Some(id) = waiting.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if let Content::Directory(directory) = &mut node.content {
                waiting.extend(std::mem::take(&mut directory.children).into_values());
            }
        }
    }
}
