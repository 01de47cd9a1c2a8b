//! A ring that carries packets, one way, seen as chains of memory segments: the socket device's and the network's.
//!
//! A driver may spread one packet over any number of descriptors, and does. Segments borrow guest memory for one
//! batch; what does not lie in memory never becomes a segment.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions, VolatileSlice};

use super::{ActiveQueue, Interrupt};

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

// The rings' layout (virtio 1.2, 2.7.6 and 2.7.8).
const AVAILABLE_HEADER_BYTES: u64 = 4;
const AVAILABLE_ELEMENT_BYTES: u64 = 2;
const USED_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;

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
    /// Chains used since the guest was last considered for an interrupt.
    unannounced: u16,
}

impl Ring {
    pub(super) fn new(active: ActiveQueue, access: Access, interrupt: Arc<dyn Interrupt>) -> Ring {
        let ActiveQueue { index, queue, .. } = active;
        Ring { index, queue, access, interrupt, unannounced: 0 }
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
        self.complete_together(memory, &[(chain, written)])
    }

    /// Hands chains back, each with how much of it is filled. The driver sees all of them at once: of a packet that is
    /// spread over several, it must not find only the first (virtio 1.2, 5.1.6.4).
    pub(super) fn complete_together(
        &mut self,
        memory: &GuestMemoryMmap,
        used: &[(Chain, usize)],
    ) -> Result<(), RingFault> {
        let Some(((last, last_written), others)) = used.split_last() else { return Ok(()) };
        let mut next = self.queue.next_used();
        for (chain, written) in others {
            let slot = u64::from(next % self.queue.size());
            // Two words, little-endian: the chain's head, and how much of it is filled.
            let element = (u64::from(chain.head) | (u64::from(length(*written)) << 32)).to_le();
            // The ring was checked to lie in memory, so the sum does not overflow.
            let address = self.queue.used_ring() + USED_HEADER_BYTES + slot * USED_ELEMENT_BYTES;
            memory
                .write_obj(element, GuestAddress(address))
                .map_err(|error| self.fault(QueueError::GuestMemory(error)))?;
            next = next.wrapping_add(1);
        }
        // Only the last one's entry moves the index that the driver looks at.
        self.queue.set_next_used(next);
        self.queue.add_used(memory, last.head, length(*last_written)).map_err(|error| self.fault(error))?;
        self.unannounced = self.unannounced.saturating_add(u16::try_from(used.len()).unwrap_or(u16::MAX));
        Ok(())
    }

    /// Interrupts the guest if chains were completed and it wants to hear of them.
    pub(super) fn announce(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingFault> {
        let completed = std::mem::take(&mut self.unannounced);
        if completed > 0 && self.is_awaited(memory, completed)? {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }

    /// Whether the driver wants to hear of one of the chains completed last (virtio 1.2, 2.7.10). The queue's own
    /// answer does not know of those that were completed together.
    fn is_awaited(&self, memory: &GuestMemoryMmap, completed: u16) -> Result<bool, RingFault> {
        if !self.queue.event_idx_enabled() {
            return Ok(true);
        }
        // Between the used index and the driver's mark: it sets the mark, then looks at the index.
        fence(Ordering::SeqCst);
        let size = u64::from(self.queue.size());
        let address = self.queue.avail_ring() + AVAILABLE_HEADER_BYTES + size * AVAILABLE_ELEMENT_BYTES;
        let mark: u16 = memory
            .load(GuestAddress(address), Ordering::Relaxed)
            .map_err(|error| self.fault(QueueError::GuestMemory(error)))?;
        let since_mark = self.queue.next_used().wrapping_sub(u16::from_le(mark)).wrapping_sub(1);
        Ok(since_mark < completed)
    }

    /// A chain that no driver of sense would make.
    pub(super) fn malformed(&self) -> RingFault {
        self.fault(QueueError::InvalidChain)
    }

    fn fault(&self, source: QueueError) -> RingFault {
        RingFault { ring: self.index, source }
    }

    /// Asks the driver to kick when it adds a chain. True if it has added one already.
    pub(super) fn ask_for_kick(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        self.queue.enable_notification(memory).map_err(|error| self.fault(error))
    }

    /// The driver need not kick for now.
    pub(super) fn spare_kicks(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingFault> {
        self.queue.disable_notification(memory).map_err(|error| self.fault(error))
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Moves a header out of the front of `segments`, which then begin behind it. None if they are shorter.
pub(super) fn take_header<const N: usize>(segments: &mut Vec<VolatileSlice<'_>>) -> Option<[u8; N]> {
    let mut header = [0; N];
    let mut filled = 0;
    for segment in segments.iter() {
        filled += segment.read(&mut header[filled..], 0).ok()?;
        if filled == N {
            advance(segments, N);
            return Some(header);
        }
    }
    None
}

/// Copies `bytes` to the front of `segments`, as far as there is room.
pub(super) fn put(segments: &[VolatileSlice<'_>], bytes: &[u8]) {
    let mut left = bytes;
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
