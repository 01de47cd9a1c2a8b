//! A driver of the device, for tests: the guest's side of both rings in plain memory.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::super::packet::tests::{GUEST, from_guest};
use super::super::packet::{HEADER_BYTES, HOST_CID, Operation, Packet, Ports, Shutdown};
use super::super::{QUEUE_RX, QUEUE_TX, VsockDevice};
use crate::devices::virtio::ring_driver::{self, Bell, PATIENCE, QUEUE_SIZE, RingDriver};
use crate::devices::virtio::{Activation, VirtioDevice};

/// Room that the driver says it has; it takes everything at once.
pub(super) const WINDOW: u32 = 1 << 20;

pub(super) struct Driver {
    pub(super) device: VsockDevice,
    pub(super) bell: Arc<Bell>,
    memory: GuestMemoryMmap,
    rx: RingDriver,
    tx: RingDriver,
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
        let memory = ring_driver::memory();
        let mut driver = Driver {
            device,
            bell: Arc::default(),
            rx: RingDriver::new(&memory, 0, true),
            tx: RingDriver::new(&memory, 1, false),
            memory,
            rx_layout: rx_layout.to_vec(),
            folder,
        };
        driver.activate();
        driver
    }

    pub(super) fn activate(&mut self) {
        self.rx = RingDriver::new(&self.memory, 0, true);
        self.tx = RingDriver::new(&self.memory, 1, false);
        let activation = Activation {
            memory: GuestMemoryAtomic::new(self.memory.clone()),
            queues: vec![self.rx.activate(QUEUE_RX), self.tx.activate(QUEUE_TX)],
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
        self.rx.post(&self.rx_layout);
    }

    /// Sends raw bytes in segments of these sizes; what the sizes leave over goes into one more.
    pub(super) fn send_raw(&mut self, bytes: &[u8], sizes: &[u32]) {
        self.tx.send(bytes, sizes);
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
        let mut bytes = self.rx.next_used(patience)?;
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

    /// Makes a descriptor available that was never written as a chain.
    pub(super) fn offer_raw(&mut self, address: u64, size: u32, flags: u16, next: u16) {
        self.tx.offer_raw(address, size, flags, next);
        self.await_tx();
    }

    /// Claims that far more is available than the ring holds.
    pub(super) fn break_tx_ring(&mut self) {
        self.tx.break_it();
    }

    fn await_tx(&mut self) {
        assert!(self.tx.drain(PATIENCE), "not transmitted in time");
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
