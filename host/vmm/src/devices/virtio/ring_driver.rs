//! The guest's side of a ring in plain memory, for tests.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{ActiveQueue, Interrupt};

pub(super) const QUEUE_SIZE: u16 = 64;
/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Rings and their buffers are so far apart.
const RING_BYTES: u64 = 8 << 20;
/// Of those, the first are the ring's.
const BUFFERS: Range<u64> = 0x4000..6 << 20;

/// Counts interrupts, and faults, and keeps the newest word about the configuration.
#[derive(Debug, Default)]
pub(super) struct Bell {
    pub(super) rings: AtomicU32,
    pub(super) faults: AtomicU32,
    pub(super) changes: AtomicU32,
}

impl Interrupt for Bell {
    fn queue(&self, _queue: u16) {
        self.rings.fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self, _offset: u64, _bytes: &[u8]) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
    fn needs_reset(&self) {
        self.faults.fetch_add(1, Ordering::SeqCst);
    }
}

/// Memory for two rings.
pub(super) fn memory() -> GuestMemoryMmap {
    let bytes = usize::try_from(2 * RING_BYTES).expect("small");
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory")
}

/// One ring: descriptors at `base`, available ring 4 KiB further, used ring 8 KiB further, buffers beyond.
pub(super) struct RingDriver {
    memory: GuestMemoryMmap,
    base: u64,
    /// The buffers are for the device to write to.
    write: bool,
    kick: EventFd,
    next_available: u16,
    last_used: u16,
    next_descriptor: u16,
    next_buffer: u64,
    /// What is on offer, by head: address and size of each segment.
    offered: HashMap<u16, Vec<(u64, u32)>>,
}

impl RingDriver {
    /// The first or the second ring of that memory, empty.
    pub(super) fn new(memory: &GuestMemoryMmap, number: u64, write: bool) -> RingDriver {
        let base = number * RING_BYTES;
        memory.write_slice(&[0; 0x4000], GuestAddress(base)).expect("cleared");
        RingDriver {
            memory: memory.clone(),
            base,
            write,
            kick: EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"),
            next_available: 0,
            last_used: 0,
            next_descriptor: 0,
            next_buffer: base + BUFFERS.start,
            offered: HashMap::new(),
        }
    }

    /// The ring as the transport hands it to the device.
    pub(super) fn activate(&self, index: u16) -> ActiveQueue {
        let mut queue = Queue::new(QUEUE_SIZE).expect("a size");
        queue.try_set_desc_table_address(GuestAddress(self.base)).expect("aligned");
        queue.try_set_avail_ring_address(GuestAddress(self.base + 0x1000)).expect("aligned");
        queue.try_set_used_ring_address(GuestAddress(self.base + 0x2000)).expect("aligned");
        queue.set_event_idx(true);
        queue.set_ready(true);
        ActiveQueue { index, queue, kick: self.kick.try_clone().expect("a clone") }
    }

    /// Offers a chain of segments of these sizes, all zeros.
    pub(super) fn post(&mut self, sizes: &[u32]) {
        let segments = self.place(sizes);
        self.publish(segments);
    }

    /// Offers bytes in segments of these sizes; what the sizes leave over goes into one more.
    pub(super) fn send(&mut self, bytes: &[u8], sizes: &[u32]) {
        let mut sizes = sizes.to_vec();
        let rest = u32::try_from(bytes.len()).expect("small") - sizes.iter().sum::<u32>();
        sizes.extend((rest > 0).then_some(rest));
        let segments = self.place(&sizes);
        let mut left = bytes;
        for &(address, size) in &segments {
            let (part, rest) = left.split_at(size as usize);
            self.memory.write_slice(part, GuestAddress(address)).expect("in memory");
            left = rest;
        }
        self.publish(segments);
    }

    /// Makes a descriptor available that was never written as a chain.
    pub(super) fn offer_raw(&mut self, address: u64, size: u32, flags: u16, next: u16) {
        let slot = self.write_descriptor(address, size, flags, next);
        self.offer(slot);
    }

    /// Claims that far more is available than the ring holds.
    pub(super) fn break_it(&mut self) {
        let at = GuestAddress(self.base + 0x1002);
        self.memory.store(self.next_available.wrapping_add(1000), at, Ordering::SeqCst).expect("in memory");
        self.kick.write(1).expect("kicked");
    }

    /// Whether the device has used all that was offered, within the time.
    pub(super) fn drain(&mut self, patience: Duration) -> bool {
        while self.last_used != self.next_available {
            if self.next_used(patience).is_none() {
                return false;
            }
        }
        true
    }

    /// The next chain that was used: what the device says that it wrote.
    pub(super) fn next_used(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        while self.used_index() == self.last_used {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Some(self.take_used())
    }

    /// How far the device has come, as the driver sees it.
    pub(super) fn used_index(&self) -> u16 {
        self.memory.load(GuestAddress(self.base + 0x2002), Ordering::Acquire).expect("in memory")
    }

    fn take_used(&mut self) -> Vec<u8> {
        let at = self.base + 0x2004 + u64::from(self.last_used % QUEUE_SIZE) * 8;
        self.last_used = self.last_used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).expect("in memory");
        let written: u32 = self.memory.read_obj(GuestAddress(at + 4)).expect("in memory");
        let segments = self.offered.remove(&u16::try_from(head).expect("a head")).unwrap_or_default();
        let mut bytes = Vec::new();
        for (address, size) in segments {
            let mut part = vec![0; size as usize];
            self.memory.read_slice(&mut part, GuestAddress(address)).expect("in memory");
            bytes.append(&mut part);
        }
        if self.write {
            assert!(written as usize <= bytes.len(), "more was written than there is room for");
        }
        bytes.truncate(written as usize);
        bytes
    }

    fn place(&mut self, sizes: &[u32]) -> Vec<(u64, u32)> {
        sizes.iter().map(|&size| (self.allocate(size), size)).collect()
    }

    fn allocate(&mut self, size: u32) -> u64 {
        if self.next_buffer + u64::from(size) > self.base + BUFFERS.end {
            self.next_buffer = self.base + BUFFERS.start;
        }
        let address = self.next_buffer;
        self.next_buffer += u64::from(size);
        address
    }

    fn publish(&mut self, segments: Vec<(u64, u32)>) {
        let head = self.next_descriptor;
        for (index, &(address, size)) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            let flags = u16::from(!last) | (u16::from(self.write) << 1);
            let next = (self.next_descriptor + 1) % QUEUE_SIZE;
            self.write_descriptor(address, size, flags, next);
        }
        self.offered.insert(head, segments);
        self.offer(head);
    }

    fn write_descriptor(&mut self, address: u64, size: u32, flags: u16, next: u16) -> u16 {
        let slot = self.next_descriptor;
        self.next_descriptor = (slot + 1) % QUEUE_SIZE;
        let at = self.base + u64::from(slot) * 16;
        self.memory.write_obj(address, GuestAddress(at)).expect("in memory");
        self.memory.write_obj(size, GuestAddress(at + 8)).expect("in memory");
        self.memory.write_obj(flags, GuestAddress(at + 12)).expect("in memory");
        self.memory.write_obj(next, GuestAddress(at + 14)).expect("in memory");
        slot
    }

    fn offer(&mut self, head: u16) {
        let slot = self.base + 0x1004 + u64::from(self.next_available % QUEUE_SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).expect("in memory");
        self.next_available = self.next_available.wrapping_add(1);
        self.memory
            .store(self.next_available, GuestAddress(self.base + 0x1002), Ordering::Release)
            .expect("in memory");
        self.kick.write(1).expect("kicked");
    }
}

/// Processor time of this process' threads of that name, in clock ticks.
pub(super) fn thread_time(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let of_name = stats.filter(|stat| stat.contains(&format!("({name})")));
    of_name
        .filter_map(|stat| {
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        })
        .max()
        .unwrap_or(0)
}
