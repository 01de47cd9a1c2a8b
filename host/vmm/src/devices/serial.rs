//! The serial port: where the kernel's panics come out. Output goes to the [`Observer`], input never comes.

use std::io;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::observer::Observer;

/// Raises the port's interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A 16550 without anything at the other end.
pub struct SerialPort {
    port: Serial<Line, NoEvents, Observer>,
}

impl SerialPort {
    /// `interrupt` raises its line.
    #[must_use]
    pub fn new(interrupt: EventFd, observer: Observer) -> SerialPort {
        SerialPort { port: Serial::new(Line(interrupt), observer) }
    }

    /// The guest writes to a register. An interrupt that cannot be raised is one that the guest polls for anyway.
    pub fn write(&mut self, register: u16, value: u8) {
        let _ = self.port.write(u8::try_from(register).unwrap_or(u8::MAX), value);
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u16) -> u8 {
        self.port.read(u8::try_from(register).unwrap_or(u8::MAX))
    }
}
