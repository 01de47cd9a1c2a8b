//! The socket device (virtio 1.2, 5.10): streams between the guest and unix sockets of the host.
//!
//! The host's side is as in Firecracker's hybrid vsock. A client of the listening socket writes `CONNECT <port>\n`,
//! reads `OK <port of the host>\n` once the guest has accepted, and from then on has a plain stream; if the guest
//! refuses, it reads an end of file. The guest reaches the unix socket whose path is the configured one with `_` and
//! the port appended.
//!
//! ```text
//!  listener ─▶ clients ─CONNECT─▶ ┐                      ┌ tx ring ─ transmit ─▶ stream ─▶ socket
//!                                 ├─ table of streams ───┤
//!  guest ─────── REQUEST ───────▶ ┘                      └ rx ring ◀─ receive ── stream ◀─ socket
//! ```
//!
//! [`packet`] and [`connection`] are pure: the protocol and its credit, without I/O. Everything else belongs to the one
//! thread in `worker`. Nothing waits for the guest or for a client, and all that either can make it hold is bounded:
//! [`MAX_CONNECTIONS`] connections with [`BUFFER_BYTES`] each.
//!
//! The event queue is taken and never used: the only event there is tells of a migration.

mod clients;
pub mod connection;
pub mod packet;
mod receive;
mod stream;
mod table;
mod transmit;
mod worker;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::{ActivateError, Activation, DeviceType, VirtioDevice};
pub use connection::BUFFER_BYTES;
pub use table::MAX_CONNECTIONS;
use worker::{Host, Worker};

const QUEUE_RX: u16 = 0;
const QUEUE_TX: u16 = 1;
/// rx, tx and event. Linux fills half of rx with pages and refills it when that is half empty.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// `VIRTIO_VSOCK_F_STREAM` (5.10.3).
const FEATURE_STREAM: u64 = 1 << 0;

/// The device. It holds nothing of the guest but what the active thread holds, which a reset ends.
pub struct VsockDevice {
    host: Arc<Host>,
    active: Option<Active>,
}

/// A thread that serves, and the way to end it.
struct Active {
    thread: JoinHandle<()>,
    stop: EventFd,
}

impl VsockDevice {
    /// A device for the guest whose address is `guest_cid`. Clients of `listener` wait in its queue until the guest's
    /// driver is there. Without `guest_dials` the guest can connect to nothing.
    ///
    /// # Errors
    ///
    /// The listener cannot be made non-blocking.
    pub fn new(
        guest_cid: u64,
        listener: UnixListener,
        guest_dials: Option<PathBuf>,
    ) -> io::Result<VsockDevice> {
        listener.set_nonblocking(true)?;
        Ok(VsockDevice { host: Arc::new(Host { guest_cid, listener, guest_dials }), active: None })
    }

    fn start(&self, activation: Activation) -> Result<Active, ActivateError> {
        let stop = EventFd::new(EFD_CLOEXEC).map_err(ActivateError::Start)?;
        let stopped = stop.try_clone().map_err(ActivateError::Start)?;
        let worker = Worker::new(self.host.clone(), activation, stopped)?;
        worker.register().map_err(ActivateError::Start)?;
        let thread = std::thread::Builder::new()
            .name(format!("vsock-{}", self.host.guest_cid))
            .spawn(move || worker.run());
        Ok(Active { thread: thread.map_err(ActivateError::Start)?, stop })
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Socket
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | FEATURE_STREAM
    }

    fn read_config(&self, offset: u64, out: &mut [u8]) {
        let config = self.host.guest_cid.to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = config.get(offset..).unwrap_or(&[]);
        out.fill(0);
        let count = out.len().min(rest.len());
        out[..count].copy_from_slice(&rest[..count]);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        self.active = Some(self.start(activation)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(Active { thread, stop }) = self.active.take() {
            // Fails only if the counter is full, and then the thread is awake.
            let _ = stop.write(1);
            let _ = thread.join();
        }
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
