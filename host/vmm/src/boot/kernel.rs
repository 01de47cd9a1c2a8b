//! Loads an ELF kernel: each segment to the physical address that it names.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::GuestMemoryMmap;

use crate::layout;
use crate::memory::{self, LARGE_PAGE, MemoryError, PageSize};

/// Program headers that are read; a kernel has five.
const MAX_SEGMENTS: u16 = 64;
// The ELF format (System V ABI, 4 and 5).
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const IDENT: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1]; // 64 bits, little endian, version 1
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const LOADABLE: u32 = 1;

/// Why a file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It could not be read that far.
    #[error("failed to read its headers")]
    Read(#[source] io::Error),
    /// Not an x86-64 ELF executable.
    #[error("it is no uncompressed ELF executable for x86-64")]
    NotAKernel,
    /// It wants to lie below the first MiB, or its numbers make no sense.
    #[error("a segment is to lie at {address:#x}")]
    Misplaced {
        /// Where.
        address: u64,
    },
    /// A segment does not fit.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A kernel in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Its first instruction.
    pub(super) entry: u64,
    /// Behind its last byte, what it clears by itself included.
    pub(super) end: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

pub(super) fn load(memory: &GuestMemoryMmap, file: &File) -> Result<Kernel, KernelError> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(KernelError::Read)?;
    let (entry, table, count) = parse_header(&header).ok_or(KernelError::NotAKernel)?;
    let mut table_bytes = vec![0; usize::from(count) * SEGMENT_BYTES];
    file.read_exact_at(&mut table_bytes, table).map_err(KernelError::Read)?;
    let segments: Vec<Segment> = table_bytes.chunks_exact(SEGMENT_BYTES).filter_map(parse_segment).collect();
    let mut end = 0;
    for segment in &segments {
        end = end.max(segment.check(memory)?);
    }
    let start = segments.iter().map(|segment| segment.address).min().unwrap_or(0);
    let first = start / LARGE_PAGE * LARGE_PAGE;
    for large_page in (first..end).step_by(memory::to_usize(LARGE_PAGE)) {
        memory::prefer_pages(memory, large_page, page_size(&segments, large_page));
    }
    for segment in &segments {
        memory::load(memory, segment.address, (file, segment.offset, segment.in_file), "the kernel")?;
    }
    if !(layout::HIGH_MEMORY..end).contains(&entry) {
        return Err(KernelError::NotAKernel);
    }
    Ok(Kernel { entry, end })
}

/// Large pages where the kernel is; small ones where it leaves a gap, such as between what page-table isolation
/// keeps apart.
fn page_size(segments: &[Segment], large_page: u64) -> PageSize {
    let filled: u64 =
        segments.iter().map(|segment| segment.bytes_in(large_page..large_page + LARGE_PAGE)).sum();
    if filled >= LARGE_PAGE / 4 { PageSize::Large } else { PageSize::Small }
}

impl Segment {
    /// How much of it lies in a range.
    fn bytes_in(&self, range: std::ops::Range<u64>) -> u64 {
        let end = self.address.saturating_add(self.in_memory);
        end.min(range.end).saturating_sub(self.address.max(range.start))
    }

    /// Where it ends.
    fn check(&self, memory: &GuestMemoryMmap) -> Result<u64, KernelError> {
        let end = self.address.checked_add(self.in_memory);
        let end = end.filter(|_| self.address >= layout::HIGH_MEMORY && self.in_file <= self.in_memory);
        let end = end.ok_or(KernelError::Misplaced { address: self.address })?;
        if memory::holds(memory, self.address, self.in_memory) {
            Ok(end)
        } else {
            Err(MemoryError::DoesNotFit { what: "the kernel", address: self.address }.into())
        }
    }
}

/// Entry, offset and length of the segment table.
fn parse_header(header: &[u8; HEADER_BYTES]) -> Option<(u64, u64, u16)> {
    let count = u16_at(header, 56)?;
    let sound = header.starts_with(&IDENT)
        && u16_at(header, 16)? == EXECUTABLE
        && u16_at(header, 18)? == X86_64
        && usize::from(u16_at(header, 54)?) == SEGMENT_BYTES
        && (1..=MAX_SEGMENTS).contains(&count);
    if sound { Some((u64_at(header, 24)?, u64_at(header, 32)?, count)) } else { None }
}

fn parse_segment(bytes: &[u8]) -> Option<Segment> {
    let segment = Segment {
        offset: u64_at(bytes, 8)?,
        address: u64_at(bytes, 24)?,
        in_file: u64_at(bytes, 32)?,
        in_memory: u64_at(bytes, 40)?,
    };
    (u32_at(bytes, 0)? == LOADABLE && segment.in_memory > 0).then_some(segment)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn image(address: u64, in_file: u64, in_memory: u64, entry: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[..7].copy_from_slice(&IDENT);
        bytes[16] = 2;
        bytes[18] = 62;
        bytes[24..32].copy_from_slice(&entry.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1;
        bytes[72..80].copy_from_slice(&4096_u64.to_le_bytes());
        bytes[88..96].copy_from_slice(&address.to_le_bytes());
        bytes[96..104].copy_from_slice(&in_file.to_le_bytes());
        bytes[104..112].copy_from_slice(&in_memory.to_le_bytes());
        bytes[4096..4104].copy_from_slice(b"the text");
        bytes
    }

    fn load_bytes(bytes: &[u8]) -> Result<(Kernel, [u8; 8]), KernelError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let memory = memory::allocate(64).unwrap();
        let kernel = load(&memory, &file)?;
        let mut text = [0; 8];
        memory.read_slice(&mut text, GuestAddress(0x20_0000)).unwrap();
        Ok((kernel, text))
    }

    #[test]
    fn a_kernel_is_placed_where_it_says() {
        let (kernel, text) = load_bytes(&image(0x20_0000, 100, 10_000, 0x20_0010)).unwrap();
        assert_eq!(kernel, Kernel { entry: 0x20_0010, end: 0x20_0000 + 10_000 });
        assert_eq!(&text, b"the text");
    }

    #[test]
    fn gaps_of_the_kernel_get_small_pages() {
        let segment = |address, in_memory| Segment { address, offset: 0, in_file: 0, in_memory };
        let segments = [segment(LARGE_PAGE * 8, LARGE_PAGE + 4096), segment(LARGE_PAGE * 10 - 8, LARGE_PAGE)];
        let sizes: Vec<_> = (8..11).map(|page| page_size(&segments, page * LARGE_PAGE)).collect();
        assert_eq!(sizes, [PageSize::Large, PageSize::Small, PageSize::Large]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (address, in_file, in_memory, entry) in [
            (0x1000, 8, 8, 0x1000),
            (u64::MAX - 4, 8, 8, 0x20_0000),
            (0x20_0000, 8, 1 << 40, 0x20_0000),
            (0x20_0000, 1 << 30, 1 << 30, 0x20_0000),
            (0x20_0000, 9, 8, 0x20_0000),
            (0x20_0000, 8, 8, 0x30_0000),
            (0x20_0000, 8, 8, 0),
        ] {
            assert!(load_bytes(&image(address, in_file, in_memory, entry)).is_err());
        }
        assert!(matches!(load_bytes(b"MZ"), Err(KernelError::Read(_))));
        assert!(matches!(load_bytes(&[0; 100]), Err(KernelError::NotAKernel)));
    }

    proptest! {
        #[test]
        fn no_header_panics(position in 0_usize..120, value: u64) {
            let mut bytes = image(0x20_0000, 100, 10_000, 0x20_0010);
            bytes[position..position + 8].copy_from_slice(&value.to_le_bytes());
            drop(load_bytes(&bytes));
        }
    }
}
