//! The guest's memory: allocating it, reading files into it, and moving data between it and files without copies.
//!
//! Memory is private and anonymous, taken from the host page by page as the guest touches it. Nothing else maps it.
//! This module and `kvm` are the only places that hold raw pointers to it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mm::Advice;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice,
};

use crate::devices::virtio::GuestMemory;
use crate::layout;

/// Of the host and the guest: x86-64 knows no other.
pub const PAGE: u64 = 4096;
/// Of the host's page tables and the guest's, one level up.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Most pieces of memory that one system call moves (`UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;

/// What went wrong with the guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has no room, or a limit is in the way.
    #[error("failed to allocate {mib} MiB of guest memory")]
    Allocate {
        /// How much was asked for.
        mib: u32,
        /// The system's reason.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// Something does not fit into memory.
    #[error("{what} at {address:#x} does not fit into the guest's memory")]
    DoesNotFit {
        /// The thing.
        what: &'static str,
        /// Its place.
        address: u64,
    },
    /// A file could not be mapped or read.
    #[error("failed to load {what}")]
    Load {
        /// The thing.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Reserves memory; the host gives it as it is touched.
///
/// # Errors
///
/// No address space, or a limit.
pub fn allocate(mib: u32) -> Result<GuestMemoryMmap, MemoryError> {
    let bytes = u64::from(mib) << 20;
    let low = bytes.min(layout::DEVICE_HOLE);
    let mut ranges = vec![(GuestAddress(0), to_usize(low))];
    if bytes > low {
        ranges.push((GuestAddress(layout::ABOVE_HOLE), to_usize(bytes - low)));
    }
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| MemoryError::Allocate { mib, source })
}

/// Where the memory below the hole ends.
#[must_use]
pub fn low_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, vm_memory::GuestMemoryRegion::len)
}

/// Reads `length` bytes of a file to `address`. They are copied, not mapped: the kernel patches nearly every page of its
/// own text while it boots, and a mapped page costs three faults and two exits until it is the guest's own. `what` is
/// for messages.
///
/// # Errors
///
/// It does not fit, or the file is shorter than that.
pub fn load(
    memory: &GuestMemoryMmap,
    address: u64,
    (file, offset, length): (&File, u64, u64),
    what: &'static str,
) -> Result<(), MemoryError> {
    let target = memory
        .get_slice(GuestAddress(address), to_usize(length))
        .map_err(|_| MemoryError::DoesNotFit { what, address })?;
    read_exact_at(file, &target, offset).map_err(|source| MemoryError::Load { what, source })
}

/// The size of pages that the host is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    /// [`LARGE_PAGE`]: what lies there is used throughout, and each page of 4 KiB would be a fault of its own.
    Large,
    /// 4 KiB: hardly anything lies there, and a large page would take memory for nothing.
    Small,
}

/// Asks the host for pages of one size for the large page at `start`, a multiple of [`LARGE_PAGE`]. A host that does
/// not do as asked is no worse off.
pub fn prefer_pages(memory: &GuestMemoryMmap, start: u64, size: PageSize) {
    let length = LARGE_PAGE.min(low_end(memory).saturating_sub(start));
    let Ok(slice) = memory.get_slice(GuestAddress(start), to_usize(length)) else { return };
    let advice = match size {
        PageSize::Large => Advice::LinuxHugepage,
        PageSize::Small => Advice::LinuxNoHugepage,
    };
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is guest memory, mapped as long as `memory`; advice changes no content.
    let _ = unsafe { rustix::mm::madvise(guard.as_ptr().cast(), guard.len(), advice) };
}

/// Writes plain bytes at `address`.
///
/// # Errors
///
/// They do not fit.
pub fn write(
    memory: &GuestMemoryMmap,
    address: u64,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), MemoryError> {
    memory.write_slice(bytes, GuestAddress(address)).map_err(|_| MemoryError::DoesNotFit { what, address })
}

fn read_exact_at(file: &File, target: &VolatileSlice<'_>, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < target.len() {
        let rest = target.offset(done).map_err(io::Error::other)?;
        match read_at(file, &[rest], offset + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// Reads from a file straight into the guest's memory. At most [`MAX_PIECES`] pieces. Like `preadv`, it may read
/// less than there is room for; 0 at the file's end.
///
/// # Errors
///
/// Those of `preadv`, but never an interruption.
pub fn read_at(file: &File, pieces: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    transfer(pieces, |vectors, count| {
        // SAFETY: each vector is a piece of guest memory that lives as long as `pieces`; the kernel writes into it as
        // the guest itself might at any time, and nothing in this process holds a reference into it.
        unsafe { libc::preadv64(file.as_raw_fd(), vectors, count, offset) }
    })
}

/// Writes to a file straight from the guest's memory, as [`read_at`] reads.
///
/// # Errors
///
/// Those of `pwritev`, but never an interruption.
pub fn write_at(file: &File, pieces: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    transfer(pieces, |vectors, count| {
        // SAFETY: as in `read_at`; the kernel only reads.
        unsafe { libc::pwritev64(file.as_raw_fd(), vectors, count, offset) }
    })
}

/// Reads what a stream has, as [`read_at`] does from a file.
///
/// # Errors
///
/// Those of `readv`, but never an interruption; `WouldBlock` if there is nothing.
pub fn read_stream(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    transfer(pieces, |vectors, count| {
        // SAFETY: as in `read_at`.
        unsafe { libc::readv(stream.as_raw_fd(), vectors, count) }
    })
}

/// Writes what a stream takes, as [`write_at`] does to a file.
///
/// # Errors
///
/// Those of `writev`, but never an interruption; `WouldBlock` if there is no room.
pub fn write_stream(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    transfer(pieces, |vectors, count| {
        // SAFETY: as in `read_at`; the kernel only reads.
        unsafe { libc::writev(stream.as_raw_fd(), vectors, count) }
    })
}

fn transfer(
    pieces: &[VolatileSlice<'_>],
    call: impl Fn(*const libc::iovec, i32) -> isize,
) -> io::Result<usize> {
    let guards: Vec<_> = pieces.iter().take(MAX_PIECES).map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let count = i32::try_from(vectors.len()).map_err(io::Error::other)?;
    loop {
        // A negative count is an error.
        if let Ok(moved) = usize::try_from(call(vectors.as_ptr(), count)) {
            return Ok(moved);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Gives whole pages back to the host: the guest said that it does not use them. What they held is lost; reading
/// gives zeros.
///
/// # Errors
///
/// The range is not in memory, or the host refused.
pub fn discard(memory: &GuestMemory, address: u64, length: u64) -> io::Result<()> {
    let memory = memory.memory();
    let start = address.next_multiple_of(PAGE);
    let end = address.checked_add(length).ok_or(io::ErrorKind::InvalidInput)? / PAGE * PAGE;
    if start >= end {
        return Ok(());
    }
    let slice = memory.get_slice(GuestAddress(start), to_usize(end - start)).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the pages are guest memory, mapped as long as `memory`; that their content changes is what the guest
    // asked for, and this process holds no references into them.
    unsafe { rustix::mm::madvise(guard.as_ptr().cast(), guard.len(), Advice::LinuxDontNeed) }?;
    Ok(())
}

/// x86-64 only: `usize` has 64 bits.
#[must_use]
pub fn to_usize(value: u64) -> usize {
    const { assert!(usize::BITS == 64) };
    #[allow(clippy::cast_possible_truncation)]
    {
        value as usize
    }
}

/// Whether `length` bytes at `address` lie in memory.
#[must_use]
pub fn holds(memory: &GuestMemoryMmap, address: u64, length: u64) -> bool {
    GuestAddress(address).checked_add(length).is_some()
        && memory.check_range(GuestAddress(address), to_usize(length))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_to_its_place() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|number| (number % 251) as u8).collect();
        let file = file(&bytes);
        let memory = allocate(64).unwrap();
        load(&memory, 0x10_0000, (&file, 4096, 5904), "the test").unwrap();
        let mut seen = vec![0; 5904];
        memory.read_slice(&mut seen, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(seen, bytes[4096..]);
    }

    #[test]
    fn a_file_that_is_too_short_or_too_long_is_refused() {
        let memory = allocate(64).unwrap();
        let file = file(&[1; 8192]);
        assert!(matches!(
            load(&memory, 0, (&file, 4096, 4097), "it"),
            Err(MemoryError::Load { what: "it", .. })
        ));
        let end = 64 << 20;
        assert!(matches!(
            load(&memory, end - 4096, (&file, 0, 8192), "it"),
            Err(MemoryError::DoesNotFit { .. })
        ));
        assert!(matches!(
            load(&memory, u64::MAX, (&file, 0, 8192), "it"),
            Err(MemoryError::DoesNotFit { .. })
        ));
    }

    #[test]
    fn memory_goes_on_above_the_hole() {
        let memory = allocate(4096).unwrap();
        assert_eq!(low_end(&memory), layout::DEVICE_HOLE);
        assert!(holds(&memory, layout::ABOVE_HOLE, 1 << 30));
        assert!(!holds(&memory, layout::DEVICE_HOLE - 1, 2));
        assert!(!holds(&memory, u64::MAX, 2));
    }

    #[test]
    fn discarded_pages_read_as_zeros_and_their_neighbours_do_not() {
        let memory = allocate(64).unwrap();
        memory.write_slice(&[7; 3 * 4096], GuestAddress(0)).unwrap();
        discard(&GuestMemory::new(memory.clone()), 100, 8192).unwrap();
        let seen: Vec<u8> =
            [0, 4096, 8192].map(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap()).to_vec();
        assert_eq!(seen, [7, 0, 7]);
    }
}
