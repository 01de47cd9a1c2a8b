//! Which device answers an access of the guest's: the serial port, the keyboard controller's reset, the virtio
//! devices' registers. Everything else is empty: reads give ones, writes go nowhere.

use std::sync::{Mutex, PoisonError};

use crate::devices::serial::SerialPort;
use crate::devices::virtio::mmio::MmioTransport;
use crate::kvm::Ports;
use crate::layout;

const SERIAL_PORTS: u16 = 8;
const KEYBOARD_DATA_PORT: u16 = 0x60;

/// The machine's devices. Each has a lock of its own, and none is held while another is taken.
pub struct Bus {
    serial: Mutex<SerialPort>,
    /// By their place from [`layout::VIRTIO_MMIO`] on.
    virtio: Vec<Mutex<MmioTransport>>,
}

impl Bus {
    /// Devices in their order.
    #[must_use]
    pub fn new(serial: SerialPort, virtio: Vec<MmioTransport>) -> Bus {
        Bus { serial: Mutex::new(serial), virtio: virtio.into_iter().map(Mutex::new).collect() }
    }

    fn virtio_at(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(layout::VIRTIO_MMIO)?;
        let index = usize::try_from(offset / layout::VIRTIO_MMIO_STRIDE).ok()?;
        Some((self.virtio.get(index)?, offset % layout::VIRTIO_MMIO_STRIDE))
    }
}

impl Ports for Bus {
    fn port_write(&self, port: u16, data: &[u8]) -> bool {
        match (port.checked_sub(layout::SERIAL_PORT), data) {
            (Some(register @ 0..SERIAL_PORTS), [value]) => {
                self.serial.lock().unwrap_or_else(PoisonError::into_inner).write(register, *value);
                false
            }
            _ => port == layout::KEYBOARD_COMMAND_PORT && data.first() == Some(&layout::KEYBOARD_RESET),
        }
    }

    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (port, data) {
            // Neither data to take nor a command under way: the kernel waits for that before it resets.
            (layout::KEYBOARD_COMMAND_PORT | KEYBOARD_DATA_PORT, [value]) => *value = 0,
            (layout::SERIAL_PORT.., [value]) if port - layout::SERIAL_PORT < SERIAL_PORTS => {
                let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
                *value = serial.read(port - layout::SERIAL_PORT);
            }
            _ => {}
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        // The registers of the transport have 32 bits, and narrower or wider writes mean nothing (virtio 1.2,
        // 4.2.2.2); no device here has a configuration space that the driver writes.
        if let (Some((device, offset)), Ok(value)) = (self.virtio_at(address), data.try_into()) {
            let value = u32::from_le_bytes(value);
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, value);
        }
    }

    /// Devices' registers are read without coming here.
    fn memory_read(&self, _address: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
}
