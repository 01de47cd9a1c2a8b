//! The configuration with its descriptors taken: what the engines build a machine from.
//!
//! Owns the step from numbers to [`OwnedFd`]. Called once, by `main`, before the process opens anything.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::io::FdFlags;

use crate::config::{Descriptor, Engine, MachineConfig, NetworkConfig};
use crate::network::NetworkParts;

/// A descriptor that the configuration names, and that is not open.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {number}, which the configuration names, is not open")]
pub struct NotOpen {
    number: RawFd,
    #[source]
    source: io::Error,
}

/// What an engine builds its machine from. The fields are those of [`MachineConfig`].
#[derive(Debug)]
pub struct MachineParts {
    /// Number of processors.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// An uncompressed ELF kernel.
    pub kernel: File,
    /// An uncompressed cpio archive.
    pub initramfs: File,
    /// Appended to the engine's own command line.
    pub command_line: String,
    /// Files of the layer disk.
    pub layers: Vec<File>,
    /// The writable disk.
    pub writable: Option<File>,
    /// The socket device.
    pub vsock: VsockParts,
    /// The network card.
    pub network: Option<NetworkParts>,
    /// The emulator's program.
    pub emulator: Option<PathBuf>,
}

/// What the vsock device is built from.
#[derive(Debug)]
pub struct VsockParts {
    /// The guest's address.
    pub guest_cid: u64,
    /// Where the host's clients connect.
    pub listener: UnixListener,
    /// The stem of the sockets that the guest may dial.
    pub guest_dials: Option<PathBuf>,
}

/// The supervisor's side: how the launcher reaches the monitor.
#[derive(Debug)]
pub struct LauncherSide {
    /// The control socket.
    pub control: UnixListener,
    /// Held open by a launcher that the machine must not outlive.
    pub lifeline: Option<OwnedFd>,
    /// Where the report goes.
    pub report: File,
}

/// Takes ownership of every descriptor of a validated configuration, and marks each close-on-exec.
///
/// # Errors
///
/// The first descriptor that is not open. What was taken before it is closed.
pub fn take(config: MachineConfig) -> Result<(Engine, MachineParts, LauncherSide), NotOpen> {
    // The report first: whoever waits for it is told by its end of file if something else fails.
    let report = File::from(take_descriptor(config.report)?);
    let control = UnixListener::from(take_descriptor(config.control)?);
    let lifeline = config.lifeline.map(take_descriptor).transpose()?;
    let layers: Result<Vec<File>, NotOpen> = config.layers.into_iter().map(take_file).collect();
    let parts = MachineParts {
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        kernel: take_file(config.kernel)?,
        initramfs: take_file(config.initramfs)?,
        command_line: config.command_line,
        layers: layers?,
        writable: config.writable.map(take_file).transpose()?,
        vsock: VsockParts {
            guest_cid: u64::from(config.vsock.guest_cid),
            listener: UnixListener::from(take_descriptor(config.vsock.listener)?),
            guest_dials: config.vsock.guest_dials,
        },
        network: config.network.map(take_network).transpose()?,
        emulator: config.emulator,
    };
    Ok((config.engine, parts, LauncherSide { control, lifeline, report }))
}

fn take_network(config: NetworkConfig) -> Result<NetworkParts, NotOpen> {
    let socket = UnixStream::from(take_descriptor(config.socket)?);
    Ok(NetworkParts { socket, mac: config.mac, gateway: config.gateway })
}

fn take_file(descriptor: Descriptor) -> Result<File, NotOpen> {
    take_descriptor(descriptor).map(File::from)
}

/// Takes ownership of one descriptor that was inherited.
///
/// # Errors
///
/// It is not open.
#[allow(unsafe_code)]
pub fn take_descriptor(Descriptor(number): Descriptor) -> Result<OwnedFd, NotOpen> {
    if number < 0 {
        return Err(NotOpen { number, source: io::ErrorKind::InvalidInput.into() });
    }
    // SAFETY: the number is not -1, and the borrow ends before anything could close it: nothing else runs yet. If
    // nothing is open there, the kernel says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .map_err(|errno| NotOpen { number, source: errno.into() })?;
    // SAFETY: it is open, and nobody else owns it: it was inherited, validation allows each number once, and the
    // standard streams are excluded.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
