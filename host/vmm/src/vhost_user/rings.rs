//! What the emulator says about rings and memory, until a device takes it.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::message::VhostUserMemoryRegion;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use super::kick;
use crate::devices::virtio::{ActiveQueue, Interrupt};

/// The largest ring. QEMU's virtio-mmio offers this size to every driver, whatever the device says (its
/// `VIRTQUEUE_MAX_SIZE`); no device of ours keeps anything by ring entry.
const MAX_RING_SIZE: u16 = 1024;

/// Where a ring's three parts are, in the guest's addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingAddresses {
    pub(super) descriptors: GuestAddress,
    pub(super) available: GuestAddress,
    pub(super) used: GuestAddress,
}

/// One ring's configuration.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    /// Where in the available ring the device goes on.
    pub(super) base: u16,
    pub(super) addresses: Option<RingAddresses>,
    pub(super) kick: Option<File>,
    pub(super) enabled: bool,
}

/// Why a ring cannot be handed to a device.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("the ring's size or alignment is wrong")]
    Layout(#[source] virtio_queue::Error),
    #[error("the ring does not lie in the guest's memory")]
    OutOfMemory,
    #[error("the kick's descriptor cannot be duplicated")]
    Kick(#[source] std::io::Error),
}

impl Ring {
    /// The emulator has said everything about it.
    pub(super) fn is_configured(&self) -> bool {
        self.addresses.is_some() && self.kick.is_some()
    }

    /// The queue for the device, checked against memory.
    pub(super) fn build(
        &self,
        index: u16,
        features: u64,
        memory: &GuestMemoryMmap,
    ) -> Result<ActiveQueue, RingError> {
        let (Some(addresses), Some(kick)) = (self.addresses, &self.kick) else {
            return Err(RingError::OutOfMemory);
        };
        let mut queue = Queue::new(MAX_RING_SIZE).map_err(RingError::Layout)?;
        queue.try_set_size(self.size).map_err(RingError::Layout)?;
        queue.try_set_desc_table_address(addresses.descriptors).map_err(RingError::Layout)?;
        queue.try_set_avail_ring_address(addresses.available).map_err(RingError::Layout)?;
        queue.try_set_used_ring_address(addresses.used).map_err(RingError::Layout)?;
        queue.set_next_avail(self.base);
        // Nothing is in flight between two activations, so everything taken was used.
        queue.set_next_used(self.base);
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(RingError::OutOfMemory);
        }
        let kick = kick::from_file(kick.try_clone().map_err(RingError::Kick)?);
        Ok(ActiveQueue { index, queue, kick })
    }
}

/// The guest's memory, as the emulator passed it, and where it has mapped it itself.
#[derive(Debug, Default)]
pub(super) struct Regions {
    mapped: Vec<Mapped>,
}

#[derive(Debug, Clone, Copy)]
struct Mapped {
    emulator: u64,
    guest: u64,
    bytes: u64,
}

impl Regions {
    /// Maps what the emulator passed. None if it does not fit together.
    pub(super) fn map(
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Option<(Regions, GuestMemoryMmap)> {
        let mut mapped = Vec::with_capacity(table.len());
        let mut regions = Vec::with_capacity(table.len());
        for (entry, file) in table.iter().zip(files) {
            let bytes = usize::try_from(entry.memory_size).ok()?;
            let region = MmapRegion::from_file(FileOffset::new(file, entry.mmap_offset), bytes).ok()?;
            regions.push(GuestRegionMmap::new(region, GuestAddress(entry.guest_phys_addr))?);
            mapped.push(Mapped {
                emulator: entry.user_addr,
                guest: entry.guest_phys_addr,
                bytes: entry.memory_size,
            });
        }
        regions.sort_by_key(|region| vm_memory::GuestMemoryRegion::start_addr(region).0);
        let memory = GuestMemoryMmap::from_regions(regions).ok()?;
        Some((Regions { mapped }, memory))
    }

    /// Where in the guest's memory an address of the emulator's is.
    pub(super) fn guest_address(&self, emulator: u64) -> Option<GuestAddress> {
        self.mapped.iter().find_map(|region| {
            let offset = emulator.checked_sub(region.emulator)?;
            (offset < region.bytes).then(|| GuestAddress(region.guest + offset))
        })
    }
}

/// The descriptors by which the emulator wants to hear of used buffers. It may change them while a device runs.
#[derive(Debug)]
pub(super) struct Calls(Vec<Mutex<Option<File>>>);

impl Calls {
    pub(super) fn new(queues: usize) -> Arc<Calls> {
        Arc::new(Calls((0..queues).map(|_| Mutex::new(None)).collect()))
    }

    /// Sets the descriptor of a queue, and signals it once: what was used meanwhile went to the one before.
    pub(super) fn set(&self, queue: u16, call: Option<File>) {
        if let Some(slot) = self.0.get(usize::from(queue)) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = call;
            self.queue(queue);
        }
    }
}

impl Interrupt for Calls {
    fn queue(&self, queue: u16) {
        let Some(slot) = self.0.get(usize::from(queue)) else { return };
        if let Some(call) = slot.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // Fails only when the counter is full, and then the emulator has yet to look.
            let _ = call.write(&1u64.to_ne_bytes());
        }
    }

    /// Would need a channel back to the emulator. No device that is served this way changes its configuration.
    fn config(&self, _offset: u64, _bytes: &[u8]) {}

    /// The protocol, as the emulator speaks it, has no word for it: the device just stops.
    fn needs_reset(&self) {
        eprintln!("capsid-vmm: a device met a fault and stopped");
    }
}
