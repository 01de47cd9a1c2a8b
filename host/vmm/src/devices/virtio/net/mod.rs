//! The network device (virtio 1.2, 5.1): Ethernet frames between the guest and a socket (see [`crate::network`]).
//!
//! ```text
//!  tx ring ─ transmit ─▶ border ─▶ one frame on its way ─▶ socket
//!  rx ring ◀─ receive ── border ◀─ some frames read ahead ◀─ socket
//! ```
//!
//! All of it belongs to the one thread in `worker`, which blocks nobody and is blocked by nobody: a socket that takes
//! no more leaves the guest's frames in its ring, as a wire that is busy does, and a guest that takes no more leaves its
//! frames in the socket. When the socket closes the link goes down, and the machine goes on.
//!
//! A frame is copied out of the guest's memory once, and everything that is decided about it is decided on the copy.
//!
//! Offered are checksums left to the device, without which Linux would copy each large frame into one piece before it
//! sends it; and frames spread over several receive buffers, without which none larger than 1514 bytes could be
//! received. With an MTU of 65520 nothing would be gained by segmentation offload, so there is none.

mod checksum;
mod header;
mod link;
mod receive;
mod transmit;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::{ActivateError, Activation, DeviceType, VirtioDevice};
use crate::network::{MacAddress, NetworkParts};
use link::Link;
use worker::Worker;

const QUEUE_RX: u16 = 0;
const QUEUE_TX: u16 = 1;
/// rx and tx. A frame of 64 KiB takes up to 43 of Linux's receive buffers: some of those fit.
const QUEUE_SIZES: [u16; 2] = [256, 256];

// Feature bits (5.1.3 and 6).
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MAC: u64 = 1 << 5;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const RING: u64 = (1 << 28) | (1 << 29) | (1 << 32); // INDIRECT_DESC, EVENT_IDX, VERSION_1

/// Where the link's status is in the configuration space (5.1.4), behind the card's address.
const STATUS_OFFSET: u64 = 6;
/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// The device. Of the guest it holds no more than the active thread does, which a reset ends.
pub struct NetworkDevice {
    mac: MacAddress,
    up: Arc<AtomicBool>,
    state: State,
}

/// Whose the link is. It outlives a reset, or the stream would be out of step after one.
enum State {
    Inactive(Link),
    Active {
        thread: JoinHandle<Link>,
        stop: EventFd,
    },
    /// The thread came to a bad end, or there was none to be had. The guest's card stays, and does nothing.
    Lost,
}

impl NetworkDevice {
    /// A device on a connected socket.
    ///
    /// # Errors
    ///
    /// The socket cannot be made non-blocking.
    pub fn new(parts: NetworkParts) -> io::Result<NetworkDevice> {
        let mac = parts.mac;
        let link = Link::new(parts)?;
        Ok(NetworkDevice { mac, up: link.state(), state: State::Inactive(link) })
    }
}

impl VirtioDevice for NetworkDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        RING | CSUM | GUEST_CSUM | MAC | MRG_RXBUF | STATUS
    }

    fn read_config(&self, offset: u64, out: &mut [u8]) {
        let status = if self.up.load(Ordering::SeqCst) { LINK_UP } else { 0 };
        let mut space = [0; 8];
        space[..6].copy_from_slice(&self.mac);
        space[6..].copy_from_slice(&status.to_le_bytes());
        let rest = space.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        out.fill(0);
        let count = out.len().min(rest.len());
        out[..count].copy_from_slice(&rest[..count]);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let stop = EventFd::new(EFD_CLOEXEC).map_err(ActivateError::Start)?;
        let stopped = stop.try_clone().map_err(ActivateError::Start)?;
        let State::Inactive(link) = std::mem::replace(&mut self.state, State::Lost) else { return Ok(()) };
        match Worker::new(link, activation, stopped) {
            Ok(worker) => {
                let name = format!("net-{:02x}{:02x}", self.mac[4], self.mac[5]);
                let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
                self.state = State::Active { thread: thread.map_err(ActivateError::Start)?, stop };
                Ok(())
            }
            Err((link, error)) => {
                self.state = State::Inactive(link);
                Err(error)
            }
        }
    }

    fn reset(&mut self) {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Active { thread, stop } => {
                // Fails only if the counter is full, and then the thread is awake.
                let _ = stop.write(1);
                self.state = thread.join().map_or(State::Lost, State::Inactive);
            }
            other => self.state = other,
        }
    }
}

impl Drop for NetworkDevice {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
