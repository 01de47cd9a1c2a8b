//! The two rings that carry packets, seen as chains of memory segments.
//!
//! A driver may spread one packet over any number of descriptors, and does. Segments borrow guest memory for one
//! batch; what does not lie in memory never becomes a segment.

use std::sync::Arc;

use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemory as _, GuestMemoryMmap, Permissions, VolatileSlice};

use super::super::{ActiveQueue, Interrupt};
use super::packet::HEADER_BYTES;

/// Most segments of one chain that are looked at; a longer chain is refused as a whole. A packet of 64 KiB in pages
/// has 17.
const MAX_SEGMENTS: usize = 1024;

/// The ring is broken beyond use: the driver has to reset the device.
#[derive(Debug, thiserror::Error)]
#[error("the driver broke ring {ring}")]
pub(super) struct RingFault {
    ring: u16,
    #[source]
    source: QueueError,
}

/// A chain that was taken off the available ring, and where its segments are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) head: u16,
    /// Index of its first segment in the list that it was collected into, and how many it has.
    pub(super) first: usize,
    pub(super) segments: usize,
    /// Length of all of them.
    pub(super) bytes: usize,
}

/// Which of a chain's descriptors are meant for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// One ring.
pub(super) struct Ring {
    index: u16,
    queue: Queue,
    access: Access,
    interrupt: Arc<dyn Interrupt>,
    /// Chains were used since the guest was last considered for an interrupt.
    unannounced: bool,
}

impl Ring {
    pub(super) fn new(active: ActiveQueue, access: Access, interrupt: Arc<dyn Interrupt>) -> Ring {
        let ActiveQueue { index, queue, .. } = active;
        Ring { index, queue, access, interrupt, unannounced: false }
    }

    /// Takes the next chain and appends its segments to `segments`. A chain that cannot be used, because it leaves
    /// memory or goes on for too long, has no segments.
    pub(super) fn next<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        segments: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Option<Chain>, RingFault> {
        let taken = self.queue.iter(memory).map(|mut available| available.next());
        let Some(descriptors) = taken.map_err(|source| RingFault { ring: self.index, source })? else {
            return Ok(None);
        };
        let mut chain =
            Chain { head: descriptors.head_index(), first: segments.len(), segments: 0, bytes: 0 };
        for descriptor in descriptors {
            let (permissions, wanted) = match self.access {
                Access::Read => (Permissions::Read, !descriptor.is_write_only()),
                Access::Write => (Permissions::Write, descriptor.is_write_only()),
            };
            if !wanted || descriptor.len() == 0 {
                continue;
            }
            let found = memory.get_slices(descriptor.addr(), descriptor.len() as usize, permissions);
            let fits = found.is_ok_and(|slices| {
                slices.into_iter().all(|slice| slice.map(|slice| segments.push(slice)).is_ok())
            });
            if !fits || segments.len() - chain.first > MAX_SEGMENTS {
                segments.truncate(chain.first);
                return Ok(Some(chain));
            }
        }
        chain.segments = segments.len() - chain.first;
        chain.bytes = segments[chain.first..].iter().map(VolatileSlice::len).sum();
        Ok(Some(chain))
    }

    /// Puts back the `chains` that were taken last, unused.
    pub(super) fn put_back(&mut self, chains: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(chains));
    }

    /// Hands a chain back to the driver, `written` bytes of it filled.
    pub(super) fn complete(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: Chain,
        written: usize,
    ) -> Result<(), RingFault> {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.unannounced = true;
        self.queue
            .add_used(memory, chain.head, written)
            .map_err(|source| RingFault { ring: self.index, source })
    }

    /// Interrupts the guest if chains were completed and it wants to hear of them.
    pub(super) fn announce(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingFault> {
        if std::mem::take(&mut self.unannounced) {
            let wanted = self.queue.needs_notification(memory);
            if wanted.map_err(|source| RingFault { ring: self.index, source })? {
                self.interrupt.queue(self.index);
            }
        }
        Ok(())
    }

    /// Asks the driver to kick when it adds a chain. True if it has added one already.
    pub(super) fn ask_for_kick(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        self.queue.enable_notification(memory).map_err(|source| RingFault { ring: self.index, source })
    }

    /// The driver need not kick for now.
    pub(super) fn spare_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingFault> {
        self.queue.disable_notification(memory).map_err(|source| RingFault { ring: self.index, source })
    }
}

/// Moves a header out of the front of `segments`, which then begin behind it. None if they are shorter.
pub(super) fn take_header<'m>(segments: &mut Vec<VolatileSlice<'m>>) -> Option<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    for segment in segments.iter() {
        filled += segment.read(&mut header[filled..], 0).ok()?;
        if filled == HEADER_BYTES {
            advance(segments, HEADER_BYTES);
            return Some(header);
        }
    }
    None
}

/// Copies a header to the front of `segments`, which must have room for it.
pub(super) fn put_header(segments: &[VolatileSlice<'_>], header: &[u8; HEADER_BYTES]) {
    let mut left = header.as_slice();
    for segment in segments {
        if left.is_empty() {
            break;
        }
        let written = segment.write(left, 0).unwrap_or(0);
        left = &left[written..];
    }
}

/// Drops the first `bytes` of `segments`, or all of it.
pub(super) fn advance(segments: &mut Vec<VolatileSlice<'_>>, mut bytes: usize) {
    let whole = segments
        .iter()
        .take_while(|segment| {
            let passed = bytes >= segment.len();
            bytes -= if passed { segment.len() } else { 0 };
            passed
        })
        .count();
    segments.drain(..whole);
    if let Some(first) = segments.first_mut()
        && let Ok(rest) = first.offset(bytes)
    {
        *first = rest;
    }
}

/// Keeps the first `bytes` of `segments`. False, and nothing is changed, if it is shorter.
pub(super) fn shorten(segments: &mut Vec<VolatileSlice<'_>>, bytes: usize) -> bool {
    let mut left = bytes;
    for index in 0..segments.len() {
        if left == 0 {
            segments.truncate(index);
            return true;
        }
        let segment = &mut segments[index];
        if left < segment.len() {
            if let Ok(part) = segment.subslice(0, left) {
                *segment = part;
            }
            left = 0;
        } else {
            left -= segment.len();
        }
    }
    left == 0
}
