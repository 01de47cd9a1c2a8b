//! From the guest: frames off the tx ring.

use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::super::ring::{self, RingFault};
use super::checksum;
use super::header::{self, HEADER_BYTES};
use super::link::Link;
use super::worker::Worker;

/// Most frames in one round.
const MAX_FRAMES: usize = 64;

impl Worker {
    /// One round over the tx ring. True if there is more.
    pub(super) fn transmit(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        self.tx.spare_kicks(memory)?;
        for _ in 0..MAX_FRAMES {
            // While a frame waits for room in the socket, the others wait in the ring.
            if !self.link.is_free() {
                return Ok(false);
            }
            let mut segments = Vec::new();
            let Some(chain) = self.tx.next(memory, &mut segments)? else {
                return self.tx.ask_for_kick(memory);
            };
            let header = ring::take_header(&mut segments).ok_or_else(|| self.tx.malformed())?;
            send(&mut self.link, header, &segments);
            self.tx.complete(memory, chain, 0)?;
        }
        Ok(true)
    }
}

/// What is too long or too short for a frame, or misplaces its checksum, is dropped, as a card would do.
fn send(link: &mut Link, header: [u8; HEADER_BYTES], segments: &[VolatileSlice<'_>]) {
    let length = segments.iter().map(VolatileSlice::len).sum();
    let Some(frame) = link.outgoing.begin(length) else { return };
    let mut rest = &mut *frame;
    for segment in segments {
        let (now, later) = rest.split_at_mut(segment.len());
        segment.copy_to(now);
        rest = later;
    }
    let complete =
        header::partial_checksum(header).is_none_or(|partial| checksum::complete(frame, partial).is_some());
    if complete { link.send() } else { link.outgoing.discard() }
}
