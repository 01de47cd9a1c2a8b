//! virtio over memory-mapped registers (virtio 1.2, 4.2), version 2 only.
//!
//! Owns a device's registers, its negotiation and the configuration of its queues, until it moves the queues into the
//! device. It must never let a register change what an active device uses (CVE-2026-5747), and nothing that a driver
//! writes may panic, block, or reach memory that is not the guest's.
//!
//! The guest *reads* the registers as plain memory, without an exit ([`Registers`]); each *write* comes to
//! [`MmioTransport::write`], except for kicks, which are events of the kernel's.
//!
//! ```text
//!         ACKNOWLEDGE, DRIVER        FEATURES_OK            DRIVER_OK
//!  reset ─────────────────▶ negotiating ─────────▶ configuring ─────────▶ active (queues frozen)
//!    ▲                        features             queues                   │
//!    └────────────────────────── status = 0, from anywhere ─────────────────┘
//! ```

mod registers;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

use super::{ActivateError, Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};
pub use registers::{NOTIFY, Registers};
use registers::{Offset, Status};

/// VIRTIO_F_VERSION_1: a driver that does not take it speaks the legacy interface, which is not here (6.1).
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_EVENT_IDX (6).
const EVENT_IDX: u64 = 1 << 29;

/// A device behind its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    registers: Registers,
    interrupt: Arc<MmioInterrupt>,
    driver_features: u64,
    driver_features_page: u32,
    selected: usize,
    queues: Vec<QueueSetup>,
}

/// A queue as the driver configures it. Nothing of it is used while the device runs but the kick.
struct QueueSetup {
    kick: EventFd,
    max_size: u16,
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Checked, and what the device gets; from then on the other fields are frozen too.
    ready: Option<Queue>,
}

/// Interrupt status register (4.2.2): which of the two.
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// The way from a device to the guest: a bit in the interrupt status register, then an edge on the line.
struct MmioInterrupt {
    registers: Registers,
    line: EventFd,
}

impl MmioInterrupt {
    fn raise(&self, bit: u32) {
        self.registers.set_bits(Offset::InterruptStatus, bit);
        // Fails only when the counter is at its end, and then the edge is on its way already.
        let _ = self.line.write(1);
    }
}

impl Interrupt for MmioInterrupt {
    fn queue(&self, _queue: u16) {
        self.raise(USED_BUFFER);
    }

    fn config(&self, offset: u64, bytes: &[u8]) {
        self.registers.configure(offset, bytes);
        self.raise(CONFIGURATION_CHANGE);
    }

    fn needs_reset(&self) {
        self.registers.set_bits(Offset::Status, Status::NEEDS_RESET);
        self.raise(CONFIGURATION_CHANGE);
    }
}

impl MmioTransport {
    /// A device in reset. `line` raises its interrupt.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        registers: Registers,
        line: EventFd,
    ) -> io::Result<MmioTransport> {
        let queues: io::Result<Vec<QueueSetup>> =
            device.queue_sizes().iter().map(|max_size| QueueSetup::new(*max_size)).collect();
        registers.describe(device.as_ref());
        let interrupt = Arc::new(MmioInterrupt { registers: registers.clone(), line });
        let mut transport = MmioTransport {
            device,
            memory,
            registers,
            interrupt,
            driver_features: 0,
            driver_features_page: 0,
            selected: 0,
            queues: queues?,
        };
        transport.reset();
        Ok(transport)
    }

    /// The events that kick each queue, by index, for as long as the transport lives.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.queues.iter().map(|queue| &queue.kick)
    }

    /// The driver writes a register. What it may not do now, or ever, is ignored.
    pub fn write(&mut self, offset: u64, value: u32) {
        let Some(register) = Offset::of(offset) else { return };
        match register {
            Offset::DeviceFeaturesSelect => self.show_features(value),
            Offset::DriverFeaturesSelect => self.driver_features_page = value,
            Offset::DriverFeatures => self.take_features(value),
            Offset::QueueSelect => self.select(value),
            Offset::QueueNotify => self.kick(value),
            Offset::InterruptAcknowledge => self.registers.clear_bits(Offset::InterruptStatus, value),
            Offset::Status => self.write_status(value),
            Offset::QueueReady => self.write_ready(value),
            Offset::QueueSize => self.configure(|queue| queue.size = value),
            Offset::DescriptorsLow => self.configure(|queue| set_low(&mut queue.descriptors, value)),
            Offset::DescriptorsHigh => self.configure(|queue| set_high(&mut queue.descriptors, value)),
            Offset::AvailableLow => self.configure(|queue| set_low(&mut queue.available, value)),
            Offset::AvailableHigh => self.configure(|queue| set_high(&mut queue.available, value)),
            Offset::UsedLow => self.configure(|queue| set_low(&mut queue.used, value)),
            Offset::UsedHigh => self.configure(|queue| set_high(&mut queue.used, value)),
            // The driver can only read these.
            Offset::Magic
            | Offset::Version
            | Offset::DeviceId
            | Offset::VendorId
            | Offset::DeviceFeatures
            | Offset::QueueSizeMax
            | Offset::InterruptStatus
            | Offset::SharedMemoryLengthLow
            | Offset::SharedMemoryLengthHigh
            | Offset::ConfigGeneration => {}
        }
    }

    fn status(&self) -> u32 {
        self.registers.get(Offset::Status)
    }

    fn show_features(&self, page: u32) {
        self.registers.set(Offset::DeviceFeatures, half(self.device.features(), page));
    }

    /// Between DRIVER and FEATURES_OK only (3.1.1).
    fn take_features(&mut self, value: u32) {
        if self.status() & (Status::DRIVER | Status::FEATURES_OK) != Status::DRIVER {
            return;
        }
        match self.driver_features_page {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => {}
        }
    }

    fn select(&mut self, index: u32) {
        self.selected = usize::try_from(index).unwrap_or(usize::MAX);
        self.show_queue();
    }

    fn show_queue(&self) {
        let queue = self.queues.get(self.selected);
        self.registers.set(Offset::QueueSizeMax, queue.map_or(0, |queue| u32::from(queue.max_size)));
        self.registers.set(Offset::QueueReady, queue.map_or(0, |queue| u32::from(queue.ready.is_some())));
    }

    /// The selected queue, while it may be configured.
    fn configurable(&mut self) -> Option<&mut QueueSetup> {
        let status = self.status();
        let now = status & Status::FEATURES_OK != 0 && status & (Status::DRIVER_OK | Status::FAILED) == 0;
        if now { self.queues.get_mut(self.selected) } else { None }
    }

    fn configure(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        if let Some(queue) = self.configurable().filter(|queue| queue.ready.is_none()) {
            change(queue);
        }
    }

    fn write_ready(&mut self, value: u32) {
        let memory = self.memory.memory();
        let event_idx = self.driver_features & EVENT_IDX != 0;
        if let Some(queue) = self.configurable() {
            queue.ready = if value == 1 { queue.check(&memory, event_idx) } else { None };
        }
        self.show_queue();
    }

    /// Only when the kernel did not take the write for a kick of its own.
    fn kick(&self, queue: u32) {
        let queue = usize::try_from(queue).ok().and_then(|index| self.queues.get(index));
        if let Some(queue) = queue.filter(|_| self.status() & Status::DRIVER_OK != 0) {
            let _ = queue.kick.write(1);
        }
    }

    /// The steps in their order (3.1.1), several at once if the driver likes; none can be taken back but by a reset.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let old = self.status();
        if value & Status::FAILED != 0 {
            self.registers.set_bits(Offset::Status, Status::FAILED);
            return;
        }
        let old_steps = old & Status::STEPS;
        if old & (Status::FAILED | Status::NEEDS_RESET) != 0 || value & old_steps != old_steps {
            return;
        }
        for step in [Status::ACKNOWLEDGE, Status::DRIVER, Status::FEATURES_OK, Status::DRIVER_OK] {
            if old & step == 0 && (value & step == 0 || !self.step(step)) {
                break;
            }
        }
    }

    /// Whether it was taken.
    fn step(&mut self, step: u32) -> bool {
        if step == Status::FEATURES_OK {
            let offered = self.device.features();
            if self.driver_features & !offered != 0 || self.driver_features & VERSION_1 == 0 {
                return false;
            }
        }
        self.registers.set_bits(Offset::Status, step);
        if step == Status::DRIVER_OK && self.activate().is_err() {
            self.interrupt.needs_reset();
        }
        true
    }

    fn activate(&mut self) -> Result<(), ActivateError> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, setup) in (0..).zip(&mut self.queues) {
            if let Some(queue) = setup.ready.take() {
                let kick = setup.kick.try_clone().map_err(ActivateError::Start)?;
                queues.push(ActiveQueue { index, queue, kick });
            }
        }
        self.device.activate(Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
            features: self.driver_features,
        })
    }

    /// As at the start. The device is still when this returns, so that nothing it does comes after.
    fn reset(&mut self) {
        self.device.reset();
        self.driver_features = 0;
        self.driver_features_page = 0;
        self.selected = 0;
        for queue in &mut self.queues {
            queue.forget();
        }
        for register in [Offset::Status, Offset::InterruptStatus] {
            self.registers.set(register, 0);
        }
        self.show_features(0);
        self.show_queue();
    }
}

impl QueueSetup {
    fn new(max_size: u16) -> io::Result<QueueSetup> {
        let kick = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(QueueSetup { kick, max_size, size: 0, descriptors: 0, available: 0, used: 0, ready: None })
    }

    fn forget(&mut self) {
        (self.size, self.descriptors, self.available, self.used) = (0, 0, 0, 0);
        self.ready = None;
        // A kick of before the reset means nothing after it.
        let _ = self.kick.read();
    }

    /// The queue, if its size is one that it can have and its rings are aligned and lie in memory.
    fn check(&self, memory: &vm_memory::GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.used)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }
}

fn half(value: u64, page: u32) -> u32 {
    match page {
        0 => u32::try_from(value & 0xffff_ffff).unwrap_or(0),
        1 => u32::try_from(value >> 32).unwrap_or(0),
        _ => 0,
    }
}

fn set_low(value: &mut u64, low: u32) {
    *value = (*value & !0xffff_ffff) | u64::from(low);
}

fn set_high(value: &mut u64, high: u32) {
    *value = (*value & 0xffff_ffff) | (u64::from(high) << 32);
}
