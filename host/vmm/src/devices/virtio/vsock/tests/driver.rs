//! A driver of the device, for tests: the guest's side of both rings in plain memory.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::super::packet::tests::{GUEST, from_guest};
use super::super::packet::{HEADER_BYTES, HOST_CID, Operation, Packet, Ports, Shutdown};
use super::super::{QUEUE_RX, QUEUE_TX, VsockDevice};
use crate::devices::virtio::{Activation, ActiveQueue, Interrupt, VirtioDevice};

pub(super) const QUEUE_SIZE: u16 = 64;
/// Room that the driver says it has; it takes everything at once.
pub(super) const WINDOW: u32 = 1 << 20;
const MEMORY_BYTES: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts interrupts, and faults.
#[derive(Default)]
pub(super) struct Bell {
    pub(super) rings: AtomicU32,
    pub(super) faults: AtomicU32,
}

impl Interrupt for Bell {
    fn queue(&self, _queue: u16) {
        self.rings.fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self) {}
    fn needs_reset(&self) {
        self.faults.fetch_add(1, Ordering::SeqCst);
    }
}

/// One ring: descriptors at `base`, available ring 4 KiB further, used ring 8 KiB further, buffers beyond.
pub(super) struct DriverRing {
    base: u64,
    kick: EventFd,
    next_avail: u16,
    last_used: u16,
    next_descriptor: u16,
    /// Where the next buffer goes.
    next_buffer: u64,
    buffers: std::ops::Range<u64>,
}

impl DriverRing {
    fn new(base: u64) -> DriverRing {
        let buffers = base + 0x4000..base + (6 << 20);
        DriverRing {
            base,
            kick: EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"),
            next_avail: 0,
            last_used: 0,
            next_descriptor: 0,
            next_buffer: buffers.start,
            buffers,
        }
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(QUEUE_SIZE).expect("a size");
        queue.try_set_desc_table_address(GuestAddress(self.base)).expect("aligned");
        queue.try_set_avail_ring_address(GuestAddress(self.base + 0x1000)).expect("aligned");
        queue.try_set_used_ring_address(GuestAddress(self.base + 0x2000)).expect("aligned");
        queue.set_event_idx(true);
        queue.set_ready(true);
        queue
    }
}

pub(super) struct Driver {
    pub(super) device: VsockDevice,
    pub(super) memory: GuestMemoryMmap,
    pub(super) bell: Arc<Bell>,
    rx: DriverRing,
    tx: DriverRing,
    /// Buffers of the rx ring by head: address and size of each segment.
    posted: std::collections::HashMap<u16, Vec<(u64, u32)>>,
    rx_layout: Vec<u32>,
    folder: tempfile::TempDir,
}

impl Driver {
    /// Starts a device whose driver posts rx buffers with segments of these sizes.
    pub(super) fn start(rx_layout: &[u32]) -> Driver {
        Driver::start_as(GUEST, rx_layout)
    }

    /// As [`Self::start`], for a guest with another address.
    pub(super) fn start_as(guest_cid: u64, rx_layout: &[u32]) -> Driver {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("vsock")).expect("a listener");
        let dials = folder.path().join("dial");
        let device = VsockDevice::new(guest_cid, listener, Some(dials)).expect("a device");
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
        let mut driver = Driver {
            device,
            memory,
            bell: Arc::default(),
            rx: DriverRing::new(0),
            tx: DriverRing::new(8 << 20),
            posted: std::collections::HashMap::new(),
            rx_layout: rx_layout.to_vec(),
            folder,
        };
        driver.activate();
        driver
    }

    pub(super) fn activate(&mut self) {
        (self.rx, self.tx) = (DriverRing::new(0), DriverRing::new(8 << 20));
        for base in [0, 8 << 20] {
            self.memory.write_slice(&[0; 0x4000], GuestAddress(base)).expect("cleared");
        }
        let queues = [(QUEUE_RX, &self.rx), (QUEUE_TX, &self.tx)].map(|(index, ring)| ActiveQueue {
            index,
            queue: ring.queue(),
            kick: ring.kick.try_clone().expect("a clone"),
        });
        let activation = Activation {
            memory: GuestMemoryAtomic::new(self.memory.clone()),
            queues: queues.into(),
            interrupt: self.bell.clone(),
            features: self.device.features(),
        };
        self.device.activate(activation).expect("activated");
        if !self.rx_layout.is_empty() {
            for _ in 0..usize::from(QUEUE_SIZE) / self.rx_layout.len() / 2 {
                self.post_rx();
            }
        }
    }

    pub(super) fn client(&self) -> std::os::unix::net::UnixStream {
        let client = std::os::unix::net::UnixStream::connect(self.folder.path().join("vsock"));
        let client = client.expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    /// The socket that the guest reaches by dialling `port`.
    pub(super) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("dial_{port}"))).expect("a listener")
    }

    pub(super) fn post_rx(&mut self) {
        let layout = self.rx_layout.clone();
        let (head, segments) = Self::post(&self.memory, &mut self.rx, &layout, true);
        self.posted.insert(head, segments);
    }

    /// Sends raw bytes in segments of these sizes; what the sizes leave over goes into one more.
    pub(super) fn send_raw(&mut self, bytes: &[u8], sizes: &[u32]) {
        let mut layout = sizes.to_vec();
        let rest = u32::try_from(bytes.len()).expect("small") - sizes.iter().sum::<u32>();
        if rest > 0 {
            layout.push(rest);
        }
        let before = self.tx.clone_position();
        let segments = self.place(&layout);
        let mut left = bytes;
        for &(address, size) in &segments {
            let (part, rest) = left.split_at(size as usize);
            self.memory.write_slice(part, GuestAddress(address)).expect("in memory");
            left = rest;
        }
        debug_assert_eq!(before, self.tx.next_avail);
        Self::publish(&self.memory, &mut self.tx, &segments, false);
        self.await_tx();
    }

    pub(super) fn send(&mut self, ports: Ports, operation: Operation, data: &[u8], forwarded: u32) {
        let packet = Packet { ports, operation, buffer_bytes: WINDOW, forwarded };
        let bytes = [from_guest(packet).as_slice(), data].concat();
        self.send_raw(&bytes, &[44]);
    }

    pub(super) fn send_data(&mut self, ports: Ports, data: &[u8]) {
        let bytes = u32::try_from(data.len()).expect("small");
        self.send(ports, Operation::Data(bytes), data, 0);
    }

    /// The next packet for the guest, whose buffer is posted again.
    pub(super) fn receive(&mut self) -> (Packet, Vec<u8>) {
        self.try_receive(PATIENCE).expect("a packet in time")
    }

    pub(super) fn try_receive(&mut self, patience: Duration) -> Option<(Packet, Vec<u8>)> {
        let (head, written) = Self::next_used(&self.memory, &mut self.rx, patience)?;
        let segments = self.posted.remove(&head).expect("a posted chain");
        let mut bytes = Vec::new();
        for (address, size) in segments {
            let mut part = vec![0; size as usize];
            self.memory.read_slice(&mut part, GuestAddress(address)).expect("in memory");
            bytes.append(&mut part);
        }
        bytes.truncate(written as usize);
        self.post_rx();
        let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("a header");
        Some((to_guest(&header), bytes.split_off(HEADER_BYTES)))
    }

    /// As [`Self::receive`], expecting this operation.
    pub(super) fn expect(&mut self, operation: Operation) -> Packet {
        let (packet, _) = self.receive();
        assert_eq!(packet.operation, operation);
        packet
    }

    /// A connection that a client of the host asked for and the guest accepted.
    pub(super) fn connect(&mut self, port: u32) -> (std::os::unix::net::UnixStream, Ports) {
        use std::io::{Read, Write};
        let mut client = self.client();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).expect("written");
        let request = self.expect(Operation::Request);
        self.send(request.ports, Operation::Response, &[], 0);
        let line = format!("OK {}\n", request.ports.host);
        let mut answer = vec![0; line.len()];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, line.as_bytes());
        (client, request.ports)
    }

    fn place(&mut self, layout: &[u32]) -> Vec<(u64, u32)> {
        layout.iter().map(|&size| (self.tx.allocate(size), size)).collect()
    }

    fn post(
        memory: &GuestMemoryMmap,
        ring: &mut DriverRing,
        layout: &[u32],
        write: bool,
    ) -> (u16, Vec<(u64, u32)>) {
        let segments: Vec<_> = layout.iter().map(|&size| (ring.allocate(size), size)).collect();
        (Self::publish(memory, ring, &segments, write), segments)
    }

    fn publish(memory: &GuestMemoryMmap, ring: &mut DriverRing, segments: &[(u64, u32)], write: bool) -> u16 {
        let head = ring.next_descriptor;
        for (index, &(address, size)) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            let slot = ring.next_descriptor;
            ring.next_descriptor = (slot + 1) % QUEUE_SIZE;
            let flags = u16::from(!last) | (u16::from(write) << 1);
            let at = ring.base + u64::from(slot) * 16;
            memory.write_obj(address, GuestAddress(at)).expect("in memory");
            memory.write_obj(size, GuestAddress(at + 8)).expect("in memory");
            memory.write_obj(flags, GuestAddress(at + 12)).expect("in memory");
            memory.write_obj(ring.next_descriptor, GuestAddress(at + 14)).expect("in memory");
        }
        ring.offer(memory, head);
        head
    }

    /// Makes a descriptor available that was never written as a chain.
    pub(super) fn offer_raw(&mut self, address: u64, size: u32, flags: u16, next: u16) {
        let slot = self.tx.next_descriptor;
        self.tx.next_descriptor = (slot + 1) % QUEUE_SIZE;
        let at = self.tx.base + u64::from(slot) * 16;
        self.memory.write_obj(address, GuestAddress(at)).expect("in memory");
        self.memory.write_obj(size, GuestAddress(at + 8)).expect("in memory");
        self.memory.write_obj(flags, GuestAddress(at + 12)).expect("in memory");
        self.memory.write_obj(next, GuestAddress(at + 14)).expect("in memory");
        let memory = self.memory.clone();
        self.tx.offer(&memory, slot);
        self.await_tx();
    }

    /// Claims that far more is available than the ring holds.
    pub(super) fn break_tx_ring(&mut self) {
        let at = GuestAddress(self.tx.base + 0x1002);
        self.memory.store(self.tx.next_avail.wrapping_add(1000), at, Ordering::SeqCst).expect("in memory");
        self.tx.kick.write(1).expect("kicked");
    }

    fn await_tx(&mut self) {
        while self.tx.last_used != self.tx.next_avail {
            Self::next_used(&self.memory, &mut self.tx, PATIENCE).expect("transmitted in time");
        }
    }

    fn next_used(memory: &GuestMemoryMmap, ring: &mut DriverRing, patience: Duration) -> Option<(u16, u32)> {
        let deadline = Instant::now() + patience;
        let index = GuestAddress(ring.base + 0x2002);
        while memory.load::<u16>(index, Ordering::Acquire).expect("in memory") == ring.last_used {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        let at = ring.base + 0x2004 + u64::from(ring.last_used % QUEUE_SIZE) * 8;
        ring.last_used = ring.last_used.wrapping_add(1);
        let head: u32 = memory.read_obj(GuestAddress(at)).expect("in memory");
        let written = memory.read_obj(GuestAddress(at + 4)).expect("in memory");
        Some((u16::try_from(head).expect("a head"), written))
    }
}

impl DriverRing {
    fn clone_position(&self) -> u16 {
        self.next_avail
    }

    fn allocate(&mut self, size: u32) -> u64 {
        if self.next_buffer + u64::from(size) > self.buffers.end {
            self.next_buffer = self.buffers.start;
        }
        let address = self.next_buffer;
        self.next_buffer += u64::from(size);
        address
    }

    fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = self.base + 0x1004 + u64::from(self.next_avail % QUEUE_SIZE) * 2;
        memory.write_obj(head, GuestAddress(slot)).expect("in memory");
        self.next_avail = self.next_avail.wrapping_add(1);
        memory
            .store(self.next_avail, GuestAddress(self.base + 0x1002), Ordering::Release)
            .expect("in memory");
        self.kick.write(1).expect("kicked");
    }
}

/// Understands a packet that the device sent.
pub(super) fn to_guest(header: &[u8; HEADER_BYTES]) -> Packet {
    let mut turned = *header;
    turned[0..8].copy_from_slice(&header[8..16]);
    turned[8..16].copy_from_slice(&header[0..8]);
    turned[16..20].copy_from_slice(&header[20..24]);
    turned[20..24].copy_from_slice(&header[16..20]);
    assert_eq!(header[0..8], HOST_CID.to_le_bytes());
    if header[30] == 3 {
        // Resets are not parsed further, so that those of another type are seen here as well.
        let port = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let ports = Ports { host: port(16), guest: port(20) };
        return Packet { ports, operation: Operation::Reset, buffer_bytes: 0, forwarded: 0 };
    }
    Packet::parse(&turned, GUEST).expect("the device sends sense")
}

pub(super) const fn gives_up(send: bool, receive: bool) -> Operation {
    Operation::Shutdown(Shutdown { receive, send })
}
