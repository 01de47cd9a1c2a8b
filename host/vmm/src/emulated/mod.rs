//! The engine for machines without usable hardware virtualisation: QEMU's microvm machine under TCG, as our child.
//!
//! It runs the same kernel, initramfs and devices as our own machine. QEMU provides processors, interrupt controllers,
//! the virtio-mmio transports, the serial port, random numbers and the network card; everything that touches files or
//! other processes is served from here, over vhost-user, by the same code, and the card's frames pass through here.
//!
//! Pause and stop are signals to the process rather than messages: QEMU's own pause would take the rings away from our
//! devices, and with them every connection; and there is no protocol to parse. The processors have stopped when the
//! kernel says that every thread has.

mod clock;
mod command;
mod process;

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStdout, Command};
use std::thread::JoinHandle;

use crate::control::EndCause;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::block::BlockDevice;
use crate::devices::virtio::vsock::VsockDevice;
use crate::engine::{EngineError, RunningMachine};
use crate::network::border::Border;
use crate::network::{NetworkParts, relay};
use crate::observer::{Observer, milestone};
use crate::parts::{MachineParts, VsockParts};
use crate::vhost_user;
use clock::Reading;
use command::{Card, Plan, ServedDevice, ServedKind};
use process::Process;

/// Why the emulated machine could not be started.
#[derive(Debug, thiserror::Error)]
enum EmulatedError {
    #[error("the emulator {} is not installed", .0.display())]
    Missing(PathBuf),
    #[error("failed to start the emulator {}", .program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("failed to prepare the {device} device")]
    Device { device: &'static str, source: io::Error },
    #[error("failed to follow the console")]
    Console(#[source] io::Error),
}

/// An emulator that runs a guest.
pub struct EmulatedMachine {
    process: Process,
    observer: Observer,
    console: Option<JoinHandle<()>>,
}

/// Starts the emulator, and returns as soon as it runs. To be called from the main thread, with which it dies.
///
/// # Errors
///
/// The emulator is missing, or something could not be had of the system. What the emulator itself refuses comes later,
/// as the end of the machine.
pub fn start(parts: MachineParts, observer: &Observer) -> Result<EmulatedMachine, EngineError> {
    let counter = Reading::take();
    let program = parts.emulator.unwrap_or_else(|| command::PROGRAM.into());
    let mut devices = Devices::default();
    if !parts.layers.is_empty() {
        let disk = BlockDevice::layers(parts.layers).map_err(device_error("layer"))?;
        devices.add(ServedKind::Block, Box::new(disk), None)?;
    }
    if let Some(file) = parts.writable {
        let disk = BlockDevice::writable(file).map_err(device_error("writable"))?;
        devices.add(ServedKind::Block, Box::new(disk), None)?;
    }
    let VsockParts { guest_cid, listener, guest_dials } = parts.vsock;
    let vsock = VsockDevice::new(guest_cid, listener, guest_dials).map_err(device_error("vsock"))?;
    devices.add(ServedKind::Socket, Box::new(vsock), Some(entered(observer)))?;
    let network = parts.network.map(|parts| devices.connect(parts)).transpose()?;

    let arguments = command::arguments(&Plan {
        vcpus: parts.vcpus,
        memory_mib: parts.memory_mib,
        kernel: parts.kernel.as_raw_fd(),
        initramfs: parts.initramfs.as_raw_fd(),
        command_line: &parts.command_line,
        tsc_khz: counter.khz(),
        devices: &devices.served,
        network,
    })?;
    let mut inherited = vec![parts.kernel.as_fd(), parts.initramfs.as_fd()];
    inherited.extend(devices.sockets.iter().map(AsFd::as_fd));
    let (process, stdout) = spawn(&program, &arguments, &inherited)?;
    observer.reached(milestone::MACHINE_BUILT);
    let console = follow(stdout, observer.clone()).map_err(EmulatedError::Console)?;
    let observer = observer.clone();
    Ok(EmulatedMachine { process, observer, console: Some(console) })
}

/// The last device's configuration is the last thing that the emulator waits for before it starts the processors.
fn entered(observer: &Observer) -> vhost_user::Milestone {
    let observer = observer.clone();
    Box::new(move || observer.reached(milestone::GUEST_ENTERED))
}

fn device_error(device: &'static str) -> impl Fn(io::Error) -> EmulatedError {
    move |source| EmulatedError::Device { device, source }
}

fn spawn(
    program: &PathBuf,
    arguments: &[String],
    inherited: &[BorrowedFd<'_>],
) -> Result<(Process, ChildStdout), EmulatedError> {
    let mut command = Command::new(program);
    command.args(arguments.iter().map(OsString::from));
    Process::start(command, inherited).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => EmulatedError::Missing(program.clone()),
        _ => EmulatedError::Start { program: program.clone(), source },
    })
}

/// Keeps the console's output until the emulator closes it.
fn follow(mut stdout: ChildStdout, observer: Observer) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("console".into()).spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            observer.append_console(&chunk[..count]);
        }
    })
}

/// The devices that are served, and the emulator's ends of their sockets.
#[derive(Default)]
struct Devices {
    served: Vec<ServedDevice>,
    sockets: Vec<UnixStream>,
}

impl Devices {
    fn add(
        &mut self,
        kind: ServedKind,
        device: Box<dyn VirtioDevice>,
        configured: Option<vhost_user::Milestone>,
    ) -> Result<(), EmulatedError> {
        let name = match kind {
            ServedKind::Block => "block",
            ServedKind::Socket => "vsock",
        };
        let queue_size = device.queue_sizes().first().copied().unwrap_or(0);
        let (ours, theirs) = UnixStream::pair().map_err(device_error(name))?;
        // Its thread ends by itself when the emulator closes the socket, as it does by ending.
        vhost_user::serve(device, ours, configured).map_err(device_error(name))?;
        self.served.push(ServedDevice { kind, socket: theirs.as_raw_fd(), queue_size });
        self.sockets.push(theirs);
        Ok(())
    }

    /// Leads the emulator's network card to the network, across the border.
    fn connect(&mut self, parts: NetworkParts) -> Result<Card, EmulatedError> {
        let NetworkParts { socket, mac, gateway } = parts;
        let (ours, theirs) = UnixStream::pair().map_err(device_error("network"))?;
        // As above, it ends with the emulator.
        relay::start(ours, socket, Border::new(gateway)).map_err(device_error("network"))?;
        let card = Card { socket: theirs.as_raw_fd(), mac };
        self.sockets.push(theirs);
        Ok(card)
    }
}

impl EmulatedMachine {
    fn cause(&mut self) -> io::Result<EndCause> {
        let (status, said) = self.process.end()?;
        if let Some(console) = self.console.take() {
            // It ends with the emulator's output, of which the last words matter most.
            let _ = console.join();
        }
        if status.success() {
            let panicked = self.observer.shows_panic();
            return Ok(if panicked { EndCause::GuestPanic } else { EndCause::GuestReset });
        }
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Ok(EndCause::Failed { message: format!("the emulator failed ({status}){said}") })
    }
}

impl RunningMachine for EmulatedMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.process.ended()
    }

    fn end_cause(&mut self) -> EndCause {
        self.cause().unwrap_or_else(|error| EndCause::Failed {
            message: format!("failed to learn how the emulator ended: {error}"),
        })
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        Ok(self.process.hold()?)
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        Ok(self.process.release()?)
    }

    fn stop(&mut self) {
        self.process.kill();
    }
}
