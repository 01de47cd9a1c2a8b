//! To the guest: frames into the rx ring.

use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::super::ring::{self, Chain, Ring, RingFault};
use super::header::{self, HEADER_BYTES};
use super::worker::Worker;
use crate::memory::MAX_PIECES;

/// Most frames in one round.
const MAX_FRAMES: usize = 64;

/// What the guest agreed to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    /// A frame may be spread over several buffers.
    pub(super) merges: bool,
    /// It takes our word for checksums.
    pub(super) trusts: bool,
}

/// Buffers that the guest offers, taken for one frame.
#[derive(Default)]
struct Room<'m> {
    chains: Vec<Chain>,
    segments: Vec<VolatileSlice<'m>>,
    bytes: usize,
}

impl Worker {
    /// One round for what the socket has. True if there is more and the guest has buffers.
    pub(super) fn receive(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        for _ in 0..MAX_FRAMES {
            let Some(frame) = self.link.next_frame() else { return Ok(false) };
            let wanted = HEADER_BYTES + frame.len();
            let room = take_room(&mut self.rx, memory, wanted, self.agreed.merges)?;
            if room.bytes >= wanted {
                put(&room, frame, self.agreed.trusts);
                let used = fill(&room.chains, wanted);
                self.rx.complete_together(memory, &used)?;
                self.link.take();
            } else if !self.agreed.merges && !room.chains.is_empty() {
                // The buffers are smaller than the frame, and will not grow.
                self.rx.put_back(count(&room.chains));
                self.link.take();
            } else {
                // Before they are put back: the question is whether there are more than these.
                let more = self.rx.ask_for_kick(memory)?;
                self.rx.put_back(count(&room.chains));
                return Ok(more);
            }
        }
        Ok(true)
    }
}

/// Takes buffers for `wanted` bytes together, one if they are not to be merged, or as many as there are.
fn take_room<'m>(
    rx: &mut Ring,
    memory: &'m GuestMemoryMmap,
    wanted: usize,
    merges: bool,
) -> Result<Room<'m>, RingFault> {
    rx.spare_kicks(memory)?;
    let mut room = Room::default();
    while room.bytes < wanted && (merges || room.chains.is_empty()) {
        let Some(chain) = rx.next(memory, &mut room.segments)? else { break };
        // Each holds a header at least (5.1.6.3.2), and no frame needs so many pieces.
        if chain.bytes < HEADER_BYTES || room.segments.len() > MAX_PIECES {
            return Err(rx.malformed());
        }
        room.bytes += chain.bytes;
        room.chains.push(chain);
    }
    Ok(room)
}

fn put(room: &Room<'_>, frame: &[u8], checked: bool) {
    let header = header::received(count(&room.chains), checked);
    ring::put(&room.segments, &header);
    let mut behind = room.segments.clone();
    ring::advance(&mut behind, HEADER_BYTES);
    ring::put(&behind, frame);
}

/// How much of each chain is filled when all together hold `bytes`.
fn fill(chains: &[Chain], bytes: usize) -> Vec<(Chain, usize)> {
    let mut left = bytes;
    let filled = |chain: &Chain| {
        let filled = left.min(chain.bytes);
        left -= filled;
        (*chain, filled)
    };
    chains.iter().map(filled).collect()
}

fn count(chains: &[Chain]) -> u16 {
    u16::try_from(chains.len()).unwrap_or(u16::MAX)
}
