//! The page of registers that the guest reads (virtio 1.2, 4.2.2), shared with it: we write, it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::super::VirtioDevice;

/// What the magic value register reads: "virt".
const MAGIC: u32 = 0x7472_6976;
/// The version of the layout.
const VERSION: u32 = 2;
/// Ours; nobody assigns these.
const VENDOR: u32 = 0x4350_5344;
/// "No such region" in both halves (4.2.2.1).
const NO_SHARED_MEMORY: u32 = u32::MAX;
/// Where a device's own configuration starts.
const CONFIGURATION: usize = 0x100;
/// Room for the largest configuration of any device here.
const CONFIGURATION_BYTES: usize = 256;
/// Bytes of the page.
const PAGE: usize = 4096;
/// Where a queue's number is written to kick it.
pub const NOTIFY: u64 = 0x50;

macro_rules! offsets {
    ($($name:ident = $offset:literal),* $(,)?) => {
        /// The registers of 4.2.2, by their offsets.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Offset { $($name = $offset),* }

        impl Offset {
            #[cfg(test)]
            pub(super) const ALL: &[Offset] = &[$(Offset::$name),*];

            pub(super) fn of(offset: u64) -> Option<Offset> {
                match offset { $($offset => Some(Offset::$name),)* _ => None }
            }
        }
    };
}

offsets! {
    Magic = 0x00,
    Version = 0x04,
    DeviceId = 0x08,
    VendorId = 0x0c,
    DeviceFeatures = 0x10,
    DeviceFeaturesSelect = 0x14,
    DriverFeatures = 0x20,
    DriverFeaturesSelect = 0x24,
    QueueSelect = 0x30,
    QueueSizeMax = 0x34,
    QueueSize = 0x38,
    QueueReady = 0x44,
    QueueNotify = 0x50,
    InterruptStatus = 0x60,
    InterruptAcknowledge = 0x64,
    Status = 0x70,
    DescriptorsLow = 0x80,
    DescriptorsHigh = 0x84,
    AvailableLow = 0x90,
    AvailableHigh = 0x94,
    UsedLow = 0xa0,
    UsedHigh = 0xa4,
    SharedMemoryLengthLow = 0xb0,
    SharedMemoryLengthHigh = 0xb4,
    ConfigGeneration = 0xfc,
}

/// Bits of the status register (2.1).
pub(super) struct Status;

impl Status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 64;
    pub(super) const FAILED: u32 = 128;
    pub(super) const STEPS: u32 = Self::ACKNOWLEDGE | Self::DRIVER | Self::FEATURES_OK | Self::DRIVER_OK;
}

/// One device's page out of a block of them. Clones share it.
#[derive(Clone)]
pub struct Registers {
    block: Arc<MmapRegion>,
    page: usize,
}

impl Registers {
    /// Pages for `count` devices in one block, which the machine maps for the guest to read.
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub fn block(count: usize) -> Result<Arc<MmapRegion>, vm_memory::mmap::MmapRegionError> {
        MmapRegionBuilder::new(count.max(1) * PAGE)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            .build()
            .map(Arc::new)
    }

    /// The page of device number `index` in a block that has it.
    #[must_use]
    pub fn of(block: &Arc<MmapRegion>, index: usize) -> Registers {
        debug_assert!((index + 1) * PAGE <= block.size());
        Registers { block: Arc::clone(block), page: index * PAGE }
    }

    /// What never changes.
    pub(super) fn describe(&self, device: &dyn VirtioDevice) {
        self.set(Offset::Magic, MAGIC);
        self.set(Offset::Version, VERSION);
        self.set(Offset::DeviceId, device.device_type().id());
        self.set(Offset::VendorId, VENDOR);
        self.set(Offset::SharedMemoryLengthLow, NO_SHARED_MEMORY);
        self.set(Offset::SharedMemoryLengthHigh, NO_SHARED_MEMORY);
        let mut configuration = [0; CONFIGURATION_BYTES];
        device.read_config(0, &mut configuration);
        // The page is longer than that.
        let _ = self.block.as_volatile_slice().write_slice(&configuration, self.page + CONFIGURATION);
    }

    /// Changes the device's own configuration. What does not fit there is not written.
    pub(super) fn configure(&self, offset: u64, bytes: &[u8]) {
        let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(bytes.len()));
        let Some(end) = end.filter(|&end| end <= CONFIGURATION_BYTES) else { return };
        let at = self.page + CONFIGURATION + end - bytes.len();
        let _ = self.block.as_volatile_slice().write_slice(bytes, at);
        // A driver that read a part before and a part after sees another number, and reads again (2.5.1).
        self.with(Offset::ConfigGeneration, |word| word.fetch_add(1, Ordering::SeqCst));
    }

    #[cfg(test)]
    pub(super) fn configuration(&self, offset: usize) -> u8 {
        self.block.as_volatile_slice().read_obj(self.page + CONFIGURATION + offset).expect("in the block")
    }

    pub(super) fn get(&self, register: Offset) -> u32 {
        self.with(register, |word| word.load(Ordering::SeqCst)).unwrap_or(0)
    }

    pub(super) fn set(&self, register: Offset, value: u32) {
        self.with(register, |word| word.store(value, Ordering::SeqCst));
    }

    pub(super) fn set_bits(&self, register: Offset, bits: u32) {
        self.with(register, |word| word.fetch_or(bits, Ordering::SeqCst));
    }

    pub(super) fn clear_bits(&self, register: Offset, bits: u32) {
        self.with(register, |word| word.fetch_and(!bits, Ordering::SeqCst));
    }

    /// The page lies in the block, so there is always a word.
    fn with<T>(&self, register: Offset, act: impl FnOnce(&AtomicU32) -> T) -> Option<T> {
        self.block.get_atomic_ref::<AtomicU32>(self.page + register as usize).ok().map(act)
    }
}
