use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::registers::{Offset, Status};
use super::*;
use crate::devices::virtio::DeviceType;

const FEATURES: u64 = VERSION_1 | EVENT_IDX | 1;
const ACTIVE: u32 = Status::STEPS;

#[derive(Default)]
struct Seen {
    activation: Mutex<Option<Activation>>,
    resets: AtomicUsize,
}

struct FakeDevice(Arc<Seen>);

impl VirtioDevice for FakeDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn read_config(&self, _offset: u64, out: &mut [u8]) {
        out[..4].copy_from_slice(b"abcd");
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.first().is_none_or(|queue| queue.index != 0) {
            return Err(ActivateError::MissingQueue(0));
        }
        let before = self.0.activation.lock().unwrap().replace(activation);
        assert!(before.is_none(), "activated twice without a reset");
        Ok(())
    }
    fn reset(&mut self) {
        self.0.resets.fetch_add(1, Ordering::Relaxed);
        *self.0.activation.lock().unwrap() = None;
    }
}

struct Bench {
    transport: MmioTransport,
    seen: Arc<Seen>,
    line: EventFd,
}

impl Bench {
    fn new() -> Bench {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let block = Registers::block(2).unwrap();
        let seen = Arc::new(Seen::default());
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let transport = MmioTransport::new(
            Box::new(FakeDevice(Arc::clone(&seen))),
            GuestMemory::new(memory),
            Registers::of(&block, 1),
            line.try_clone().unwrap(),
        )
        .unwrap();
        Bench { transport, seen, line }
    }

    fn write(&mut self, register: Offset, value: u32) {
        self.transport.write(register as u64, value);
    }

    fn read(&self, register: Offset) -> u32 {
        self.transport.registers.get(register)
    }

    /// A byte of the device's own configuration.
    fn configuration(&self, offset: usize) -> u8 {
        self.transport.registers.configuration(offset)
    }

    fn negotiate(&mut self, features: u64) {
        self.write(Offset::Status, 1);
        self.write(Offset::Status, 3);
        for page in [0, 1] {
            self.write(Offset::DriverFeaturesSelect, page);
            self.write(Offset::DriverFeatures, half(features, page));
        }
        self.write(Offset::Status, 0xb);
    }

    fn set_up_queue(&mut self, index: u32, size: u32, at: u32) {
        self.write(Offset::QueueSelect, index);
        self.write(Offset::QueueSize, size);
        self.write(Offset::DescriptorsLow, at);
        self.write(Offset::AvailableLow, at + 0x2000);
        self.write(Offset::UsedLow, at + 0x3000);
        self.write(Offset::QueueReady, 1);
    }

    fn activated() -> Bench {
        let mut bench = Bench::new();
        bench.negotiate(FEATURES);
        bench.set_up_queue(0, 128, 0x10000);
        bench.write(Offset::Status, ACTIVE);
        assert!(bench.seen.activation.lock().unwrap().is_some());
        bench
    }
}

#[test]
fn the_registers_describe_the_device() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(Offset::Magic), MAGIC_TEXT);
    assert_eq!(bench.read(Offset::Version), 2);
    assert_eq!(bench.read(Offset::DeviceId), 2);
    assert_eq!(bench.read(Offset::QueueSizeMax), 256);
    bench.write(Offset::QueueSelect, 1);
    assert_eq!(bench.read(Offset::QueueSizeMax), 16);
    bench.write(Offset::QueueSelect, 2);
    assert_eq!(bench.read(Offset::QueueSizeMax), 0);
    bench.write(Offset::DeviceFeaturesSelect, 1);
    assert_eq!(bench.read(Offset::DeviceFeatures), 1);
    bench.write(Offset::DeviceFeaturesSelect, 7);
    assert_eq!(bench.read(Offset::DeviceFeatures), 0);
}

const MAGIC_TEXT: u32 = u32::from_le_bytes(*b"virt");

#[test]
fn the_driver_s_steps_lead_to_activation() {
    let bench = Bench::activated();
    let activation = bench.seen.activation.lock().unwrap();
    let activation = activation.as_ref().unwrap();
    assert_eq!(activation.features, FEATURES);
    assert_eq!(activation.queues.len(), 1);
    assert_eq!(activation.queues[0].queue.size(), 128);
    assert_eq!(activation.queues[0].queue.desc_table(), 0x10000);
    assert!(activation.queues[0].queue.event_idx_enabled());
}

#[test]
fn unoffered_features_and_legacy_drivers_are_refused() {
    for features in [FEATURES | 2, FEATURES & !VERSION_1] {
        let mut bench = Bench::new();
        bench.negotiate(features);
        assert_eq!(bench.read(Offset::Status), 3);
        bench.write(Offset::Status, ACTIVE);
        assert_eq!(bench.read(Offset::Status), 3);
    }
}

#[test]
fn queues_outside_memory_or_of_odd_sizes_are_not_ready() {
    for (size, at) in [(128, 0xf_f000), (128, 0x10001), (0, 0x10000), (100, 0x10000), (512, 0x10000)] {
        let mut bench = Bench::new();
        bench.negotiate(FEATURES);
        bench.set_up_queue(0, size, at);
        assert_eq!(bench.read(Offset::QueueReady), 0, "size {size} at {at:#x}");
        bench.write(Offset::Status, ACTIVE);
        assert_eq!(bench.read(Offset::Status), ACTIVE | Status::NEEDS_RESET);
        assert_eq!(bench.line.read().unwrap(), 1);
    }
}

#[test]
fn reset_stops_the_device_and_clears_everything() {
    let mut bench = Bench::activated();
    bench.transport.interrupt.queue(0);
    let resets = bench.seen.resets.load(Ordering::Relaxed);
    bench.write(Offset::Status, 0);
    assert_eq!(bench.seen.resets.load(Ordering::Relaxed), resets + 1);
    assert!(bench.seen.activation.lock().unwrap().is_none());
    assert_eq!(bench.read(Offset::Status), 0);
    assert_eq!(bench.read(Offset::InterruptStatus), 0);
    assert_eq!(bench.read(Offset::QueueReady), 0);
    bench.negotiate(FEATURES);
    bench.set_up_queue(0, 64, 0x20000);
    bench.write(Offset::Status, ACTIVE);
    assert!(bench.seen.activation.lock().unwrap().is_some());
}

#[test]
fn interrupts_set_their_bit_until_acknowledged() {
    let mut bench = Bench::activated();
    bench.transport.interrupt.queue(0);
    let generation = bench.read(Offset::ConfigGeneration);
    bench.transport.interrupt.config(2, &[7]);
    assert_ne!(bench.read(Offset::ConfigGeneration), generation);
    assert_eq!(bench.configuration(2), 7);
    bench.transport.interrupt.config(u64::MAX, &[7]);
    assert_eq!(bench.read(Offset::InterruptStatus), 3);
    assert_eq!(bench.line.read().unwrap(), 3);
    bench.write(Offset::InterruptAcknowledge, 1);
    assert_eq!(bench.read(Offset::InterruptStatus), 2);
}

#[test]
fn a_failed_device_does_not_start() {
    let mut bench = Bench::new();
    bench.negotiate(FEATURES);
    bench.set_up_queue(0, 128, 0x10000);
    bench.write(Offset::Status, Status::FAILED);
    bench.write(Offset::Status, ACTIVE);
    assert!(bench.seen.activation.lock().unwrap().is_none());
}

fn any_write() -> impl Strategy<Value = (u64, u32)> {
    let offset = prop_oneof![
        6 => prop::sample::select(Offset::ALL).prop_map(|offset| offset as u64),
        1 => any::<u64>(),
    ];
    let value = prop_oneof![
        3 => prop::sample::select(&[0, 1, 3, 0xb, 0xf, 64, 128, 256, 0x10000, 0x12000, 0x13000][..]),
        1 => any::<u32>(),
    ];
    (offset, value)
}

proptest! {
    /// Whatever is written, in whatever order: no panic, one activation at most until the next reset (the fake
    /// device checks), and every queue that a device gets lies in memory.
    #[test]
    fn random_writes_do_no_harm(writes in prop::collection::vec(any_write(), 0..200)) {
        let mut bench = Bench::new();
        bench.negotiate(FEATURES);
        for (offset, value) in writes {
            bench.transport.write(offset, value);
            if let Some(activation) = bench.seen.activation.lock().unwrap().as_ref() {
                for queue in &activation.queues {
                    prop_assert!(queue.queue.is_valid(&*activation.memory.memory()));
                }
            }
        }
    }

    /// What an active device was given stays as it was, whatever is written, but for a reset.
    #[test]
    fn an_active_queue_never_changes(writes in prop::collection::vec(any_write(), 0..100)) {
        let mut bench = Bench::activated();
        for (offset, value) in writes {
            if offset == Offset::Status as u64 && value == 0 {
                continue;
            }
            bench.transport.write(offset, value);
            let activation = bench.seen.activation.lock().unwrap();
            let queue = &activation.as_ref().unwrap().queues[0].queue;
            prop_assert_eq!((queue.size(), queue.desc_table()), (128, 0x10000));
            prop_assert_eq!((queue.avail_ring(), queue.used_ring()), (0x12000, 0x13000));
            prop_assert_eq!(bench.read(Offset::Status) & ACTIVE, ACTIVE);
        }
    }
}
