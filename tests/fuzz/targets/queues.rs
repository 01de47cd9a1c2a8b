//! Rings and requests as a hostile driver may write them: any bytes where the descriptors, the available ring and the
//! buffers are.
//!
//! The real devices run on them, thread and all. Nothing may panic, hang, reach beyond the guest's memory or change
//! the size of a disk.
#![no_main]

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use capsid_vmm::devices::virtio::block::BlockDevice;
use capsid_vmm::devices::virtio::rng::EntropyDevice;
use capsid_vmm::devices::virtio::{Activation, ActiveQueue, Interrupt, VirtioDevice};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const MEMORY_BYTES: usize = 1 << 16;
const DISK_BYTES: u64 = 1 << 20;
const RING: u16 = 16;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = RING as u64 * 16;
const USED: u64 = 0xf000;
/// Long enough for any answer; an input that gets none (an empty ring) costs it once.
const PATIENCE: Duration = Duration::from_millis(20);

/// Remembers that the device has said something.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.heard.notify_all();
    }
}

impl Interrupt for Bell {
    fn queue(&self, _queue: u16) {
        self.ring();
    }
    fn config(&self, _offset: u64, _bytes: &[u8]) {
        self.ring();
    }
    fn needs_reset(&self) {
        self.ring();
    }
}

fuzz_target!(|input: (u8, bool, Vec<u8>)| {
    let (device, event_index, mut bytes) = input;
    bytes.truncate(USED as usize);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
    memory.write_slice(&bytes, GuestAddress(0)).expect("it fits");
    let index: u16 = memory.read_obj(GuestAddress(AVAILABLE + 2)).expect("it is there");
    if index == 0 {
        return;
    }
    let disk = disk();
    let before = disk.metadata().expect("a file").len();
    match device % 3 {
        0 => run(
            BlockDevice::writable(disk.try_clone().expect("a descriptor")).expect("a disk"),
            memory,
            event_index,
        ),
        1 => run(
            BlockDevice::layers(vec![disk.try_clone().expect("a descriptor")]).expect("a disk"),
            memory,
            event_index,
        ),
        _ => run(EntropyDevice::default(), memory, event_index),
    }
    assert_eq!(disk.metadata().expect("a file").len(), before, "the disk has another size");
});

/// One disk for all runs: what an earlier one wrote is as good as any content.
fn disk() -> &'static File {
    static DISK: OnceLock<File> = OnceLock::new();
    DISK.get_or_init(|| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(DISK_BYTES).expect("its size");
        file
    })
}

fn run(mut device: impl VirtioDevice, memory: GuestMemoryMmap, event_index: bool) {
    let mut queue = Queue::new(RING).expect("a ring's size");
    queue.set_size(RING);
    queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(USED)).expect("aligned");
    queue.set_event_idx(event_index);
    queue.set_ready(true);
    let kick = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
    kick.write(1).expect("a kick");
    let bell = Arc::new(Bell::default());
    let activation = Activation {
        memory: GuestMemoryAtomic::new(memory),
        queues: vec![ActiveQueue { index: 0, queue, kick }],
        interrupt: Arc::clone(&bell) as Arc<dyn Interrupt>,
        features: device.features(),
    };
    device.activate(activation).expect("a thread");
    let rung = bell.rung.lock().expect("no panic");
    drop(bell.heard.wait_timeout_while(rung, PATIENCE, |rung| !*rung));
    device.reset();
}
