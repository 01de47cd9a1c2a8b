//! One system call for many segments of guest memory.
//!
//! vm-memory reads and writes one volatile slice at a time; a packet has several, and the guest's receive buffers
//! are small, so that costs a system call for every 4 KiB. Slices cannot become `IoSlice`s, since Rust references
//! must not alias memory that the guest changes; plain pointers handed to the kernel may.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vm_memory::volatile_memory::PtrGuardMut;

/// Most segments of one call: `UIO_MAXIOV` of Linux.
pub(super) const MAX_SEGMENTS: usize = 1024;

/// Writes the segments, in order, as far as the descriptor takes them. At most [`MAX_SEGMENTS`] are looked at.
///
/// # Errors
///
/// As `writev(2)`; nothing was written.
pub(super) fn write(descriptor: BorrowedFd<'_>, segments: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (_guards, vector) = vector(segments);
    let count = libc::c_int::try_from(vector.len()).map_err(io::Error::other)?;
    // SAFETY: every element names memory of a `VolatileSlice`, which is valid for reads of its length for as long
    // as the guards live, and they outlive the call. The kernel does not mind that the guest changes it meanwhile.
    let written = unsafe { libc::writev(descriptor.as_raw_fd(), vector.as_ptr(), count) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Fills the segments, in order, as far as there are bytes to be had. At most [`MAX_SEGMENTS`] are looked at.
///
/// # Errors
///
/// As `readv(2)`; nothing was read.
pub(super) fn read(descriptor: BorrowedFd<'_>, segments: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (_guards, vector) = vector(segments);
    let count = libc::c_int::try_from(vector.len()).map_err(io::Error::other)?;
    // SAFETY: as in `write`; the memory is valid for writes as well. No dirty bitmap is kept (`VolatileSlice<()>`),
    // so none needs to be marked.
    let read = unsafe { libc::readv(descriptor.as_raw_fd(), vector.as_ptr(), count) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

fn vector(segments: &[VolatileSlice<'_>]) -> (Vec<PtrGuardMut>, Vec<libc::iovec>) {
    let guards: Vec<_> = segments.iter().take(MAX_SEGMENTS).map(VolatileSlice::ptr_guard_mut).collect();
    let vector = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    (guards, vector)
}
