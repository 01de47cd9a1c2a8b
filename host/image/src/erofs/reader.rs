//! Reads back what [`super::ErofsWriter`] writes.
//!
//! Only that: block size 4096, no compression, one device. Every number is checked before it is used, so a damaged
//! file gives an error. Used to compare layers with each other and, in tests, with what went in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::checksum::crc32c;
use super::xattr::decode_entries;
use super::{
    BLOCK, BLOCK_BITS, BLOCK_SIZE, DIRENT_SIZE, FORMAT_EXTENDED, INODE_BYTES, INODE_SIZE, LAYOUT_CHUNKED,
    LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, NULL_BLOCK, S_IFDIR, S_IFMT, SLOT, SUPER_OFFSET, XATTR_ENTRY,
    XATTR_HEADER, round_up,
};
use capsid_tar::Timestamp;

/// Bytes at a place.
pub(crate) trait ReadAt {
    /// Fills `buffer` from `offset` on, or fails.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ErofsReadError {
    /// The file could not be read, or ends too early.
    #[error("failed to read the file system image")]
    Read(#[from] io::Error),
    /// The file is not an image as this crate writes them.
    #[error("the file system image is damaged: {0}")]
    Damaged(&'static str),
}

/// An open image.
pub(crate) struct ErofsReader<R> {
    input: R,
    meta: u64,
    root: u64,
}

/// One inode with its attributes.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    /// With type bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "only comparisons look at it")
    )]
    pub(crate) links: u32,
    pub(crate) size: u64,
    /// `i_u`; the device number for devices.
    pub(crate) union: u32,
    /// Full names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    layout: u16,
    /// Where the inode and its attributes end.
    end: u64,
}

impl Inode {
    pub(crate) fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// overlayfs's mark of a deleted name.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_whiteout(&self) -> bool {
        self.mode & S_IFMT == super::S_IFCHR && self.union == 0
    }

    /// A folder that hides what lower layers have in it.
    pub(crate) fn is_opaque(&self) -> bool {
        self.xattrs.iter().any(|(name, value)| name == b"trusted.overlay.opaque" && value == b"y")
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl<R: ReadAt> ErofsReader<R> {
    /// Checks the superblock.
    pub(crate) fn open(input: R) -> Result<ErofsReader<R>, ErofsReadError> {
        let mut block = [0; BLOCK_SIZE - SUPER_OFFSET];
        input.read_exact_at(&mut block, SUPER_OFFSET as u64)?;
        if u32::from_le_bytes(field(&block, 0)) != MAGIC || block[12] != BLOCK_BITS {
            return Err(ErofsReadError::Damaged("no superblock"));
        }
        let checksum = u32::from_le_bytes(field(&block, 4));
        block[4..8].fill(0);
        if crc32c(!0, &block) != checksum {
            return Err(ErofsReadError::Damaged("wrong checksum"));
        }
        let meta = u64::from(u32::from_le_bytes(field(&block, 40))) * BLOCK;
        Ok(ErofsReader { input, meta, root: u64::from(u16::from_le_bytes(field(&block, 14))) })
    }

    /// The root folder.
    pub(crate) fn root(&self) -> Result<Inode, ErofsReadError> {
        self.inode(self.root)
    }

    /// An inode by the number that folders give.
    pub(crate) fn inode(&self, number: u64) -> Result<Inode, ErofsReadError> {
        let start = number
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(self.meta))
            .filter(|start| *start < 1 << 44)
            .ok_or(ErofsReadError::Damaged("inode number out of range"))?;
        let mut bytes = [0; INODE_BYTES];
        self.input.read_exact_at(&mut bytes, start)?;
        let format = u16::from_le_bytes(field(&bytes, 0));
        if format & FORMAT_EXTENDED == 0 {
            return Err(ErofsReadError::Damaged("compact inode"));
        }
        let count = usize::from(u16::from_le_bytes(field(&bytes, 2)));
        let xattr_size = if count == 0 { 0 } else { XATTR_HEADER + (count - 1) * XATTR_ENTRY };
        let mut area = vec![0; xattr_size];
        self.input.read_exact_at(&mut area, start + INODE_SIZE)?;
        let entries = area.get(XATTR_HEADER..).unwrap_or_default();
        let xattrs = decode_entries(entries).ok_or(ErofsReadError::Damaged("malformed attributes"))?;
        Ok(Inode {
            mode: u16::from_le_bytes(field(&bytes, 4)),
            size: u64::from_le_bytes(field(&bytes, 8)),
            union: u32::from_le_bytes(field(&bytes, 16)),
            uid: u32::from_le_bytes(field(&bytes, 24)),
            gid: u32::from_le_bytes(field(&bytes, 28)),
            mtime: Timestamp {
                seconds: i64::from_le_bytes(field(&bytes, 32)),
                nanoseconds: u32::from_le_bytes(field(&bytes, 40)),
            },
            links: u32::from_le_bytes(field(&bytes, 44)),
            xattrs,
            layout: format >> 1,
            end: start + INODE_SIZE + xattr_size as u64,
        })
    }

    /// Reads content from `offset` on; `buffer` must not reach past the file's end.
    pub(crate) fn read(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<(), ErofsReadError> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > inode.size) {
            return Err(ErofsReadError::Damaged("read past the end of a file"));
        }
        let (mut offset, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (place, length) = self.extent(inode, offset)?;
            let step = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let (part, others) = rest.split_at_mut(step);
            match place {
                Some(place) => self.input.read_exact_at(part, place)?,
                None => part.fill(0),
            }
            offset += step as u64;
            rest = others;
        }
        Ok(())
    }

    /// Where the byte at `offset` lies (nowhere for a hole), and how many follow it there.
    fn extent(&self, inode: &Inode, offset: u64) -> Result<(Option<u64>, u64), ErofsReadError> {
        let flat = u64::from(inode.union) * BLOCK;
        let whole = inode.size - inode.size % BLOCK;
        match inode.layout {
            LAYOUT_PLAIN => Ok((Some(flat + offset), inode.size - offset)),
            LAYOUT_INLINE if offset < whole => Ok((Some(flat + offset), whole - offset)),
            LAYOUT_INLINE if inode.end % BLOCK + (inode.size - whole) <= BLOCK => {
                Ok((Some(inode.end + offset - whole), inode.size - offset))
            }
            LAYOUT_INLINE => Err(ErofsReadError::Damaged("inline tail crosses a block")),
            LAYOUT_CHUNKED => {
                let bits = inode.union + u32::from(BLOCK_BITS);
                if bits > 43 {
                    return Err(ErofsReadError::Damaged("chunk size out of range"));
                }
                let inside = offset & ((1 << bits) - 1);
                let mut entry = [0; 4];
                self.input.read_exact_at(&mut entry, round_up(inode.end, 4) + (offset >> bits) * 4)?;
                let place = match u32::from_le_bytes(entry) {
                    NULL_BLOCK => None,
                    block => Some(u64::from(block) * BLOCK + inside),
                };
                Ok((place, (1 << bits) - inside))
            }
            _ => Err(ErofsReadError::Damaged("unknown layout")),
        }
    }

    /// A symbolic link's target or another short content as a whole.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn content(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, ErofsReadError> {
        if inode.size > limit {
            return Err(ErofsReadError::Damaged("content is too long"));
        }
        let mut content = vec![0; usize::try_from(inode.size).unwrap_or(0)];
        self.read(inode, 0, &mut content)?;
        Ok(content)
    }

    /// A folder's names in order, with their inodes' numbers; without `.` and `..`.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn list(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>, ErofsReadError> {
        let mut names = Vec::new();
        for index in 0..inode.size.div_ceil(BLOCK) {
            let block = self.folder_block(inode, index)?;
            let own = entries(&block)?.into_iter().filter(|(name, _)| !matches!(*name, b"." | b".."));
            names.extend(own.map(|(name, number)| (name.to_vec(), number)));
        }
        Ok(names)
    }

    fn folder_block(&self, inode: &Inode, index: u64) -> Result<Vec<u8>, ErofsReadError> {
        let start = index * BLOCK;
        let length = inode.size.saturating_sub(start).min(BLOCK);
        let mut block = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(inode, start, &mut block)?;
        Ok(block)
    }

    /// Looks a name up in a folder: by halves, since names are sorted by bytes over all blocks.
    pub(crate) fn child(&self, folder: &Inode, name: &[u8]) -> Result<Option<Inode>, ErofsReadError> {
        let (mut low, mut high) = (0, folder.size.div_ceil(BLOCK));
        while folder.is_directory() && low < high {
            let middle = low + (high - low) / 2;
            let block = self.folder_block(folder, middle)?;
            let entries = entries(&block)?;
            match entries.binary_search_by(|(other, _)| (*other).cmp(name)) {
                Ok(index) => return self.inode(entries[index].1).map(Some),
                Err(0) => high = middle,
                Err(index) if index == entries.len() => low = middle + 1,
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// The names in one block of a folder.
fn entries(block: &[u8]) -> Result<Vec<(&[u8], u64)>, ErofsReadError> {
    let damaged = ErofsReadError::Damaged("malformed folder");
    let first = block.get(8..10).map(|first| usize::from(u16::from_le_bytes(field(first, 0))));
    let count = first.unwrap_or(0) / DIRENT_SIZE;
    if count == 0 || count * DIRENT_SIZE > block.len() {
        return Err(damaged);
    }
    let mut names = Vec::with_capacity(count);
    for index in 0..count {
        let entry = &block[index * DIRENT_SIZE..];
        let start = usize::from(u16::from_le_bytes(field(entry, 8)));
        let end = match index + 1 < count {
            true => usize::from(u16::from_le_bytes(field(entry, DIRENT_SIZE + 8))),
            false => block.len(),
        };
        let Some(name) = block.get(start..end) else { return Err(damaged) };
        // The last name of a full block is padded with zeros.
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        names.push((name, u64::from_le_bytes(field(entry, 0))));
    }
    Ok(names)
}
