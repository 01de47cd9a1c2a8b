//! A request's memory: the pieces that the driver lends for reading and for writing, checked to lie in memory.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use crate::memory::MAX_PIECES;

/// A chain as this module's callers pop it.
pub(super) type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// Pieces in order, to be taken from the front.
#[derive(Debug, Default)]
pub(super) struct Pieces<'m> {
    slices: Vec<VolatileSlice<'m>>,
}

/// What one chain lends.
#[derive(Debug, Default)]
pub(super) struct Buffers<'m> {
    /// From the driver.
    pub(super) readable: Pieces<'m>,
    /// To the driver.
    pub(super) writable: Pieces<'m>,
}

impl<'m> Buffers<'m> {
    /// Nothing if a piece lies outside memory, the readable do not come first (virtio 1.2, 2.7.4.2), or there are
    /// more than [`MAX_PIECES`] of a kind.
    pub(super) fn of(chain: Chain<'m>, memory: &'m GuestMemoryMmap) -> Option<Buffers<'m>> {
        let mut buffers = Buffers::default();
        for descriptor in chain {
            let length = usize::try_from(descriptor.len()).ok()?;
            let slice = memory.get_slice(descriptor.addr(), length).ok()?;
            let pieces = if descriptor.is_write_only() {
                &mut buffers.writable
            } else if buffers.writable.slices.is_empty() {
                &mut buffers.readable
            } else {
                return None;
            };
            if pieces.slices.len() == MAX_PIECES {
                return None;
            }
            pieces.slices.push(slice);
        }
        Some(buffers)
    }
}

impl<'m> Pieces<'m> {
    #[cfg(test)]
    pub(super) fn of(slices: Vec<VolatileSlice<'m>>) -> Pieces<'m> {
        Pieces { slices }
    }

    pub(super) fn len(&self) -> u64 {
        self.slices.iter().map(|slice| slice.len() as u64).sum()
    }

    pub(super) fn as_slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// Takes the first `count` bytes, or all.
    pub(super) fn take_front(&mut self, count: u64) -> Pieces<'m> {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        let mut taken = Vec::new();
        let mut whole = 0;
        for slice in &mut self.slices {
            if left == 0 {
                break;
            }
            if slice.len() <= left {
                left -= slice.len();
                whole += 1;
                taken.push(*slice);
            } else if let Ok((front, back)) = slice.split_at(left) {
                left = 0;
                taken.push(front);
                *slice = back;
            }
        }
        self.slices.drain(..whole);
        Pieces { slices: taken }
    }

    /// Takes the first `N` bytes' content.
    pub(super) fn read<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let front = self.take_front(N as u64);
        if front.len() != N as u64 {
            return None;
        }
        let mut rest = &mut bytes[..];
        for slice in front.slices {
            let (now, later) = rest.split_at_mut(slice.len());
            slice.read_slice(now, 0).ok()?;
            rest = later;
        }
        Some(bytes)
    }

    /// Fills the front with `bytes`, as far as there is room. How many went.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        for slice in self.take_front(bytes.len() as u64).slices {
            let (now, later) = rest.split_at(slice.len());
            // The slice is as long as what is written to it.
            let _ = slice.write_slice(now, 0);
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// Zeros throughout.
    pub(super) fn clear(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        for slice in &self.slices {
            let mut done = 0;
            while done < slice.len() {
                let count = ZEROS.len().min(slice.len() - done);
                let _ = slice.write_slice(&ZEROS[..count], done);
                done += count;
            }
        }
    }
}
