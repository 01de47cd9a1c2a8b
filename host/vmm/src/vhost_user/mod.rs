//! Serves any [`VirtioDevice`] to an emulator over vhost-user.
//!
//! The emulator shows the guest a transport of its own and keeps the device's status; here are the rings'
//! configuration, which it sends once the driver is ready, and the way from there to [`VirtioDevice::activate`]. The
//! socket is connected before the emulator starts, so no path is involved.
//!
//! ```text
//!  idle ──every configured ring enabled──▶ active ──GET_VRING_BASE (the driver resets)──▶ idle
//! ```
//!
//! One thread for each device handles the emulator's messages and ends, with the device, when the socket does. The
//! emulator is believed as far as a transport has to be: addresses are checked against the memory that it passed.

mod backend;
#[allow(unsafe_code)]
mod kick;
mod rings;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vhost::vhost_user::{BackendReqHandler, Error};

use crate::devices::virtio::VirtioDevice;
use backend::Backend;

/// Something to do once the emulator has read a device's configuration.
pub type Milestone = Box<dyn FnOnce() + Send>;

/// Serves `device` on a connected socket until the other side closes it, and calls `configured` when its configuration
/// was first read.
///
/// # Errors
///
/// The thread cannot be started. The device and the socket are dropped.
pub fn serve(
    device: Box<dyn VirtioDevice>,
    socket: UnixStream,
    configured: Option<Milestone>,
) -> io::Result<JoinHandle<()>> {
    let name = format!("vhost-{:?}", device.device_type()).to_lowercase();
    let backend = Arc::new(Mutex::new(Backend::new(device, configured)));
    let mut handler = BackendReqHandler::from_stream(socket, backend);
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        loop {
            match handler.handle_request() {
                // What cannot be done was answered where an answer was wanted, and the emulator goes on without.
                Ok(()) | Err(Error::SocketRetry(_) | Error::ReqHandlerError(_)) => {}
                Err(Error::Disconnected | Error::SocketBroken(_) | Error::PartialMessage) => return,
                Err(error) => {
                    eprintln!("capsid-vmm: {name}: the emulator sent what was not understood: {error}");
                    return;
                }
            }
        }
    })
}
