//! The KVM machine: built, run, paused, ended. This file names the steps; the modules perform them.
//!
//! ```text
//! supervisor's thread:  build ─▶ start ─▶ (pause ⇄ resume)* ─▶ stop
//! processors' threads:           run guest ⇄ answer exits, wait at the gate while paused, or report the end
//! ```
//!
//! There is no ACPI, so the guest has no way to power off that we would see: a kernel that halts leaves its processors
//! waiting for ever. Whoever ends a guest from within resets it, by the `reboot` system call or, quicker, by writing
//! [`layout::KEYBOARD_RESET`] to [`layout::KEYBOARD_COMMAND_PORT`].

mod gate;
mod processors;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, BootError, VirtioPlace};
use crate::bus::Bus;
use crate::control::EndCause;
use crate::devices::serial::SerialPort;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::BlockDevice;
use crate::devices::virtio::mmio::{MmioTransport, NOTIFY, Registers};
use crate::devices::virtio::net::NetworkDevice;
use crate::devices::virtio::rng::EntropyDevice;
use crate::devices::virtio::vsock::VsockDevice;
use crate::devices::virtio::{GuestMemory, VirtioDevice};
use crate::engine::{EngineError, RunningMachine};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::layout;
use crate::memory::{self, MemoryError};
use crate::network::NetworkParts;
use crate::observer::{Observer, milestone};
use crate::parts::{MachineParts, VsockParts};
use processors::Processors;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest's memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What stands in it.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The command line.
    #[error(transparent)]
    CommandLine(#[from] boot::CommandLineError),
    /// A device.
    #[error("failed to make the {what}")]
    Device {
        /// Which.
        what: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Threads.
    #[error("failed to start a processor's thread")]
    Thread(#[source] std::io::Error),
}

fn device(what: &'static str) -> impl Fn(std::io::Error) -> BuildError {
    move |source| BuildError::Device { what, source }
}

/// A machine whose guest runs. Its parts live until the process ends.
pub struct KvmMachine {
    processors: Processors,
    /// Kept for as long as KVM may touch it.
    _memory: GuestMemory,
    _registers: Arc<MmapRegion>,
    _vm: Vm,
}

impl KvmMachine {
    /// Builds the machine and lets the guest go.
    ///
    /// # Errors
    ///
    /// What could not be had; nothing of the guest ran.
    pub fn start(parts: MachineParts, observer: &Observer) -> Result<KvmMachine, EngineError> {
        let built = Built::from_parts(parts, observer)?;
        observer.reached(milestone::MACHINE_BUILT);
        let processors = Processors::start(built.vcpus, Arc::new(built.bus), observer)?;
        Ok(KvmMachine { processors, _memory: built.memory, _registers: built.registers, _vm: built.vm })
    }
}

struct Built {
    vm: Vm,
    memory: GuestMemory,
    registers: Arc<MmapRegion>,
    bus: Bus,
    vcpus: Vec<Vcpu>,
}

impl Built {
    fn from_parts(parts: MachineParts, observer: &Observer) -> Result<Built, BuildError> {
        let mut vm = Vm::create()?;
        let plain_memory = memory::allocate(parts.memory_mib)?;
        let devices = devices(parts.layers, parts.writable, parts.vsock, parts.network)?;
        let places: Vec<VirtioPlace> = places().take(devices.len()).collect();
        let command_line = boot::command_line(&places, &parts.command_line)?;
        let lines: Vec<u8> =
            std::iter::once(layout::SERIAL_LINE).chain(places.iter().map(|place| place.line)).collect();
        let hardware = (parts.vcpus, lines.as_slice());
        let entry = boot::prepare(&plain_memory, &parts.kernel, &parts.initramfs, &command_line, hardware)?;
        vm.map_memory(&plain_memory)?;
        let memory = GuestMemory::new(plain_memory);
        let (registers, transports) = attach(&mut vm, &memory, devices, &places)?;
        let bus = Bus::new(serial_port(&vm, observer)?, transports);
        let vcpus: Result<Vec<Vcpu>, KvmError> =
            (0..parts.vcpus).map(|number| vm.create_vcpu(number, parts.vcpus, entry)).collect();
        Ok(Built { vcpus: vcpus?, vm, memory, registers, bus })
    }
}

/// In the order in which the guest finds them: the layers are always its first disk.
fn devices(
    layers: Vec<std::fs::File>,
    writable: Option<std::fs::File>,
    vsock: VsockParts,
    network: Option<NetworkParts>,
) -> Result<Vec<Box<dyn VirtioDevice>>, BuildError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(6);
    if !layers.is_empty() {
        devices.push(Box::new(BlockDevice::layers(layers).map_err(device("layer disk"))?));
    }
    if let Some(file) = writable {
        devices.push(Box::new(BlockDevice::writable(file).map_err(device("writable disk"))?));
    }
    let VsockParts { guest_cid, listener, guest_dials } = vsock;
    let socket = VsockDevice::new(guest_cid, listener, guest_dials).map_err(device("socket device"))?;
    devices.push(Box::new(socket));
    devices.push(Box::new(EntropyDevice::default()));
    devices.push(Box::new(Balloon::default()));
    if let Some(parts) = network {
        devices.push(Box::new(NetworkDevice::new(parts).map_err(device("network device"))?));
    }
    Ok(devices)
}

fn places() -> impl Iterator<Item = VirtioPlace> {
    let addresses = (0..).map(|index| layout::VIRTIO_MMIO + index * layout::VIRTIO_MMIO_STRIDE);
    addresses.zip(layout::VIRTIO_LINES).map(|(address, line)| VirtioPlace { address, line })
}

/// Gives each device its registers, its interrupt line and its kicks.
fn attach(
    vm: &mut Vm,
    memory: &GuestMemory,
    devices: Vec<Box<dyn VirtioDevice>>,
    places: &[VirtioPlace],
) -> Result<(Arc<MmapRegion>, Vec<MmioTransport>), BuildError> {
    let out_of_memory = |error| device("device registers")(std::io::Error::other(error));
    let block = Registers::block(devices.len()).map_err(out_of_memory)?;
    vm.map_registers(&block, layout::VIRTIO_MMIO)?;
    let mut transports = Vec::with_capacity(devices.len());
    for (index, (device_model, place)) in devices.into_iter().zip(places).enumerate() {
        let line = interrupt_line(vm, place.line)?;
        let registers = Registers::of(&block, index);
        let transport = MmioTransport::new(device_model, memory.clone(), registers, line)
            .map_err(device("device's transport"))?;
        for (queue, kick) in (0..).zip(transport.kicks()) {
            vm.route_kick(kick, place.address + NOTIFY, queue)?;
        }
        transports.push(transport);
    }
    Ok((block, transports))
}

fn serial_port(vm: &Vm, observer: &Observer) -> Result<SerialPort, BuildError> {
    Ok(SerialPort::new(interrupt_line(vm, layout::SERIAL_LINE)?, observer.clone()))
}

/// An event that raises an edge on a line.
fn interrupt_line(vm: &Vm, line: u8) -> Result<EventFd, BuildError> {
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(device("interrupt"))?;
    vm.route_interrupt(&event, line)?;
    Ok(event)
}

impl RunningMachine for KvmMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.processors.ended()
    }

    fn end_cause(&mut self) -> EndCause {
        self.processors.end_cause()
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.processors.pause();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.processors.resume();
        Ok(())
    }

    fn stop(&mut self) {
        self.processors.pause();
    }
}
