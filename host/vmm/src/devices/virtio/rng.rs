//! The entropy device (virtio 1.2, 5.4): the host kernel's random numbers.

use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::GuestMemoryMmap;

use super::chain::{Buffers, Chain};
use super::worker::{Handler, Worker};
use super::{ActivateError, Activation, DeviceType, VirtioDevice};

const QUEUE_SIZE: u16 = 16;
/// Bytes given for one request, however large its buffer is; a driver asks again.
const MAX_REQUEST_BYTES: u64 = 4096;
const RING: u64 = (1 << 28) | (1 << 29) | (1 << 32); // INDIRECT_DESC, EVENT_IDX, VERSION_1

/// A source of random numbers.
#[derive(Debug, Default)]
pub struct EntropyDevice {
    worker: Option<Worker>,
}

impl VirtioDevice for EntropyDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING
    }

    fn read_config(&self, _offset: u64, out: &mut [u8]) {
        out.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        self.worker = Some(Worker::start("entropy", activation, Source)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct Source;

impl Handler for Source {
    fn answer(&mut self, _queue: u16, chain: Chain<'_>, memory: &GuestMemoryMmap) -> u32 {
        let Some(mut buffers) = Buffers::of(chain, memory) else { return 0 };
        let count = buffers.writable.len().min(MAX_REQUEST_BYTES);
        let mut bytes = vec![0; crate::memory::to_usize(count)];
        // Whatever the host cannot give is not claimed to be given.
        let given = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or(0);
        u32::try_from(buffers.writable.write(&bytes[..given])).unwrap_or(0)
    }
}
