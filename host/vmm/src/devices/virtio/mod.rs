//! The contract between a virtio device and whatever transport carries it.
//!
//! The transport owns feature negotiation, status and queue configuration. On activation it *moves* the queues, a
//! handle on memory and the interrupts into the device, so nothing that the guest writes to the transport
//! afterwards can reach a running queue (that lack was CVE-2026-5747). Reset hands nothing back: the device drops its
//! queues and waits for the next activation.
//!
//! ```text
//!            activate(resources)              fault
//!  inactive ─────────────────────▶ active ───────────▶ failed (device needs reset)
//!     ▲                               │ reset             │ reset
//!     └───────────────────────────────┴───────────────────┘
//! ```

pub mod balloon;
pub mod block;
mod chain;
pub mod layer_disk;
pub mod mmio;
pub mod net;
mod ring;
#[cfg(test)]
mod ring_driver;
pub mod rng;
pub mod vsock;
mod worker;

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// The guest's memory, as every device sees it.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap>;

/// What kind of device it is (virtio 1.2, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// 5.1.
    Network,
    /// 5.2.
    Block,
    /// 5.4.
    Entropy,
    /// 5.5, the traditional memory balloon.
    Balloon,
    /// 5.10.
    Socket,
}

impl DeviceType {
    /// The number in the device's identity register (virtio 1.2, 5).
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            DeviceType::Network => 1,
            DeviceType::Block => 2,
            DeviceType::Entropy => 4,
            DeviceType::Balloon => 5,
            DeviceType::Socket => 19,
        }
    }
}

/// Tells the guest that a queue's used ring moved, or that the device's configuration changed. Called from a
/// device's own thread; cheap, and never blocks.
pub trait Interrupt: Send + Sync {
    /// The used ring of queue number `queue` moved.
    fn queue(&self, queue: u16);
    /// The configuration space changed: it holds `bytes` at `offset` now.
    fn config(&self, offset: u64, bytes: &[u8]);
    /// The device met a fault that it cannot go on from: sets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2) where the
    /// transport can.
    fn needs_reset(&self);
}

/// One queue that the driver enabled.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its number; queues that the driver left disabled are missing.
    pub index: u16,
    /// The rings, checked to lie in memory, and told whether EVENT_IDX was agreed on.
    pub queue: Queue,
    /// Readable when the driver added to the available ring.
    pub kick: EventFd,
}

/// All that a device needs to run, given for good.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The enabled queues, by index.
    pub queues: Vec<ActiveQueue>,
    /// The way to the guest.
    pub interrupt: Arc<dyn Interrupt>,
    /// The features that driver and device agreed on.
    pub features: u64,
}

/// Takes one of the queues that a device was given.
///
/// # Errors
///
/// The driver did not enable it.
pub(crate) fn take_queue(queues: &mut Vec<ActiveQueue>, index: u16) -> Result<ActiveQueue, ActivateError> {
    let place = queues.iter().position(|queue| queue.index == index);
    place.map(|place| queues.swap_remove(place)).ok_or(ActivateError::MissingQueue(index))
}

/// Why a device did not start. It stays inactive, and the driver sees the device fail.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A queue that the device cannot work without was not enabled.
    #[error("queue {0} is not enabled")]
    MissingQueue(u16),
    /// A thread or a descriptor could not be had.
    #[error("failed to start the device's thread")]
    Start(#[source] io::Error),
}

/// A virtio device. Activation starts whatever threads it needs; dropping or resetting it ends them before it
/// returns, with no request left in flight (CVE-2026-45782 was the lack of that).
pub trait VirtioDevice: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;
    /// The largest size of each queue that it has.
    fn queue_sizes(&self) -> &[u16];
    /// Feature bits that it offers, with those of the ring; `VIRTIO_F_VERSION_1` is always among them.
    fn features(&self) -> u64;
    /// Copies from the configuration space; what lies beyond it reads as zero.
    fn read_config(&self, offset: u64, out: &mut [u8]);
    /// Takes the queues and starts.
    ///
    /// # Errors
    ///
    /// The device stays inactive.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// Stops and forgets everything that the driver gave; nothing happens when it is inactive.
    fn reset(&mut self);
}
