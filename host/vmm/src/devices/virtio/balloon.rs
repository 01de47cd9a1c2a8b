//! The balloon (virtio 1.2, 5.5), there for its free page reporting: what the guest has free goes back to the host.
//!
//! It is never inflated by us; a driver that inflates it all the same loses only what it gave.

use vm_memory::{Address, GuestMemoryMmap};

use super::chain::{Buffers, Chain};
use super::worker::{Handler, Worker};
use super::{ActivateError, Activation, DeviceType, GuestMemory, VirtioDevice};
use crate::memory;

const INFLATE: u16 = 0;
/// The third queue (deflation has the second), as neither statistics nor hints are offered (5.5.2).
const REPORTING: u16 = 2;
const QUEUE_SIZES: [u16; 3] = [128, 128, 32];
/// Page numbers taken from one request; the driver sends 256.
const MAX_PAGE_NUMBERS: usize = 1024;
/// Ranges taken from one report; the driver sends 32.
const MAX_RANGES: usize = 256;
/// Pages are numbered in these, whatever the guest's are (5.5.6).
const PAGE: u64 = 4096;

// Feature bits (5.5.3 and 6).
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;
const RING: u64 = (1 << 28) | (1 << 29) | (1 << 32); // INDIRECT_DESC, EVENT_IDX, VERSION_1

/// The way back for memory.
#[derive(Debug, Default)]
pub struct Balloon {
    worker: Option<Worker>,
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING | DEFLATE_ON_OOM | PAGE_REPORTING
    }

    /// No pages are wanted.
    fn read_config(&self, _offset: u64, out: &mut [u8]) {
        out.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let releaser = Releaser { memory: activation.memory.clone() };
        self.worker = Some(Worker::start("balloon", activation, releaser)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct Releaser {
    memory: GuestMemory,
}

impl Handler for Releaser {
    /// What is outside memory, or cannot be released, stays: the guest is none the worse.
    fn answer(&mut self, queue: u16, chain: Chain<'_>, memory: &GuestMemoryMmap) -> u32 {
        match queue {
            INFLATE => self.inflate(chain, memory),
            REPORTING => {
                for descriptor in chain.take(MAX_RANGES).filter(|one| one.is_write_only()) {
                    let length = u64::from(descriptor.len());
                    let _ = memory::discard(&self.memory, descriptor.addr().raw_value(), length);
                }
            }
            // Deflating takes back what is the guest's anyway.
            _ => {}
        }
        0
    }
}

impl Releaser {
    fn inflate(&self, chain: Chain<'_>, memory: &GuestMemoryMmap) {
        let Some(mut buffers) = Buffers::of(chain, memory) else { return };
        for _ in 0..MAX_PAGE_NUMBERS {
            let Some(number) = buffers.readable.read::<4>() else { return };
            let _ = memory::discard(&self.memory, u64::from(u32::from_le_bytes(number)) * PAGE, PAGE);
        }
    }
}
