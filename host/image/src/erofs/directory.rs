//! The contents of folders: sorted entries, packed into blocks.

use super::tree::{Directory, NodeId, Tree};
use super::{BLOCK, DIRENT_SIZE, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG};

/// The entries of a folder in on-disk order: sorted by bytes, `.` and `..` among the rest.
pub(super) struct Listing<'a> {
    entries: Vec<(&'a [u8], NodeId)>,
}

/// How a listing fills blocks.
pub(super) struct Extent {
    pub(super) full_blocks: u64,
    /// Bytes used in the block behind the full ones; never 0.
    pub(super) last: usize,
}

impl<'a> Listing<'a> {
    pub(super) fn new(id: NodeId, directory: &'a Directory) -> Listing<'a> {
        let mut entries: Vec<(&[u8], NodeId)> = Vec::with_capacity(directory.children.len() + 2);
        entries.extend([(b".".as_slice(), id), (b"..".as_slice(), directory.parent)]);
        entries.extend(directory.children.iter().map(|(name, &child)| (&**name, child)));
        // Names such as `+x` sort before the two dots, so those cannot simply stand in front. All but them is
        // sorted already, which makes this cheap.
        entries.sort_by(|left, right| left.0.cmp(right.0));
        Listing { entries }
    }

    /// Splits the entries into what each block holds.
    fn blocks(&self) -> impl Iterator<Item = &[(&'a [u8], NodeId)]> {
        let mut rest = self.entries.as_slice();
        std::iter::from_fn(move || {
            let mut used = 0;
            let fits = |(name, _): &(&[u8], NodeId)| {
                used += DIRENT_SIZE + name.len();
                used as u64 <= BLOCK
            };
            let count = rest.iter().copied().take_while(fits).count();
            let (block, others) = rest.split_at(count);
            rest = others;
            (count > 0).then_some(block)
        })
    }

    pub(super) fn extent(&self) -> Extent {
        let mut extent = Extent { full_blocks: 0, last: 0 };
        for block in self.blocks() {
            if extent.last > 0 {
                extent.full_blocks += 1;
            }
            extent.last = block.iter().map(|(name, _)| DIRENT_SIZE + name.len()).sum();
        }
        extent
    }

    /// The blocks' bytes, one after another; each as long as it is used.
    pub(super) fn encode<'s>(
        &'s self,
        tree: &'s Tree,
        numbers: &'s [u64],
    ) -> impl Iterator<Item = Vec<u8>> + use<'s, 'a> {
        self.blocks().map(move |block| {
            let mut bytes = Vec::with_capacity(4096);
            let mut name_offset = block.len() * DIRENT_SIZE;
            for (name, id) in block {
                bytes.extend_from_slice(&numbers[*id as usize].to_le_bytes());
                // Less than a block.
                bytes.extend_from_slice(&u16::try_from(name_offset).unwrap_or(0).to_le_bytes());
                bytes.extend_from_slice(&[file_type(tree.node(*id).content.type_bits()), 0]);
                name_offset += name.len();
            }
            block.iter().for_each(|(name, _)| bytes.extend_from_slice(name));
            bytes
        })
    }
}

/// `FT_*` of Linux's `fs_types.h`.
fn file_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFLNK => 7,
        _ => 0,
    }
}
