//! Devices, written against queues and guest memory alone: the same code serves virtio over MMIO in our machine and
//! vhost-user under the emulator.

pub mod serial;
pub mod virtio;
