//! The whole device against a driver in plain memory.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::header::HEADER_BYTES;
use super::*;
use crate::devices::virtio::ring_driver::{self, Bell, PATIENCE, QUEUE_SIZE, RingDriver, thread_time};
use crate::network::frames::MAX_FRAME_BYTES;

const SHORT: Duration = Duration::from_millis(100);
/// Receive buffers as Linux posts them.
const LINUX_RX: u32 = 1536;

struct Driver {
    device: NetworkDevice,
    wire: UnixStream,
    bell: Arc<Bell>,
    memory: GuestMemoryMmap,
    rx: RingDriver,
    tx: RingDriver,
}

impl Driver {
    fn start() -> Driver {
        Driver::start_with(usize::from(QUEUE_SIZE), u64::MAX)
    }

    /// With so many receive buffers, and no features but these.
    fn start_with(buffers: usize, features: u64) -> Driver {
        Driver::start_as(2, buffers, features)
    }

    /// With a card of its own, which its thread is named after.
    fn start_as(card: u8, buffers: usize, features: u64) -> Driver {
        let (socket, wire) = UnixStream::pair().expect("a pair");
        wire.set_read_timeout(Some(PATIENCE)).expect("set");
        let parts = NetworkParts { socket, mac: [2, 0, 0, 0, 0, card], gateway: None };
        let memory = ring_driver::memory();
        let mut driver = Driver {
            device: NetworkDevice::new(parts).expect("a device"),
            wire,
            bell: Arc::default(),
            rx: RingDriver::new(&memory, 0, true),
            tx: RingDriver::new(&memory, 1, false),
            memory,
        };
        driver.activate(buffers, features);
        driver
    }

    fn activate(&mut self, buffers: usize, features: u64) {
        self.rx = RingDriver::new(&self.memory, 0, true);
        self.tx = RingDriver::new(&self.memory, 1, false);
        for _ in 0..buffers {
            self.rx.post(&[LINUX_RX]);
        }
        let activation = Activation {
            memory: GuestMemoryAtomic::new(self.memory.clone()),
            queues: vec![self.rx.activate(QUEUE_RX), self.tx.activate(QUEUE_TX)],
            interrupt: self.bell.clone(),
            features: self.device.features() & features,
        };
        self.device.activate(activation).expect("activated");
    }

    /// Offers a frame to the device, in segments of these sizes.
    fn offer(&mut self, frame: &[u8], sizes: &[u32]) {
        self.tx.send(&[[0; HEADER_BYTES].as_slice(), frame].concat(), sizes);
    }

    fn send(&mut self, frame: &[u8]) {
        self.offer(frame, &[]);
        assert!(self.tx.drain(PATIENCE), "not transmitted in time");
    }

    /// The next frame at the wire's other end.
    fn next_outside(&self) -> Vec<u8> {
        let mut length = [0; 4];
        (&self.wire).read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        (&self.wire).read_exact(&mut frame).expect("a frame");
        frame
    }

    fn deliver(&self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("short").to_be_bytes();
        (&self.wire).write_all(&[&length, frame].concat()).expect("written");
    }

    /// The next frame that the guest receives, with the number of its buffers, which are posted again.
    fn next_inside(&mut self) -> (Vec<u8>, u16) {
        let mut bytes = self.rx.next_used(PATIENCE).expect("a frame in time");
        let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
        for _ in 1..buffers {
            // The device must not have shown the first of them before the last.
            bytes.append(&mut self.rx.next_used(Duration::ZERO).expect("the rest with it"));
        }
        for _ in 0..buffers {
            self.rx.post(&[LINUX_RX]);
        }
        (bytes.split_off(HEADER_BYTES), buffers)
    }

    fn await_fault(&self, faults: u32) {
        await_that(|| self.bell.faults.load(Ordering::SeqCst) == faults);
    }
}

fn await_that(holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it does not come to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An IPv4 frame from and to the outside.
fn frame(mark: u8, length: usize) -> Vec<u8> {
    frame_to([192, 0, 2, 1], mark, length)
}

fn frame_to(destination: [u8; 4], mark: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![mark; length];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[26..30].copy_from_slice(&[192, 0, 2, 2]);
    frame[30..34].copy_from_slice(&destination);
    frame
}

#[test]
fn frames_leave_in_order_whatever_their_descriptors() {
    let mut driver = Driver::start();
    for (mark, sizes) in [&[][..], &[12], &[5, 7, 1, 1, 30], &[1; 40]].into_iter().enumerate() {
        let mark = u8::try_from(mark).expect("few");
        driver.offer(&frame(mark, 1000), sizes);
        assert_eq!(driver.next_outside(), frame(mark, 1000));
    }
    driver.send(&frame(9, MAX_FRAME_BYTES));
    assert!(driver.next_outside() == frame(9, MAX_FRAME_BYTES));
    assert!(driver.bell.rings.load(Ordering::SeqCst) > 0);
}

#[test]
fn frames_enter_in_as_many_buffers_as_they_need() {
    let mut driver = Driver::start();
    for (length, buffers) in
        [(60, 1), (LINUX_RX as usize - 12, 1), (LINUX_RX as usize - 11, 2), (MAX_FRAME_BYTES, 43)]
    {
        driver.deliver(&frame(3, length));
        let (received, used) = driver.next_inside();
        assert!(received == frame(3, length), "{} bytes arrived", received.len());
        assert_eq!(used, buffers);
    }
}

#[test]
fn a_driver_that_does_not_merge_gets_what_fits_one_buffer() {
    let mut driver = Driver::start_with(8, !MRG_RXBUF);
    driver.deliver(&frame(1, 4000));
    driver.deliver(&frame(2, 1000));
    assert_eq!(driver.next_inside(), (frame(2, 1000), 1));
}

#[test]
fn checksums_are_vouched_for_if_the_driver_takes_our_word() {
    for (features, flags) in [(u64::MAX, 2), (!GUEST_CSUM, 0)] {
        let mut driver = Driver::start_with(8, features);
        driver.deliver(&frame(1, 100));
        assert_eq!(driver.rx.next_used(PATIENCE).expect("a frame")[0], flags);
    }
}

#[test]
fn what_would_reach_the_hosts_loopback_stays_inside() {
    let mut driver = Driver::start();
    driver.send(&frame_to([127, 0, 0, 1], 1, 100));
    driver.send(&frame_to([0, 0, 0, 0], 2, 100));
    driver.send(&frame(3, 100));
    assert_eq!(driver.next_outside(), frame(3, 100));
}

#[test]
fn a_checksum_left_to_the_device_is_completed() {
    let mut driver = Driver::start();
    let bytes = frame(1, 61);
    let mut header = [0; HEADER_BYTES];
    (header[0], header[6], header[8]) = (1, 34, 16);
    driver.tx.send(&[header.as_slice(), &bytes].concat(), &[12]);
    let mut expected = bytes.clone();
    // 13 words of 0x0101 and a last byte of 1: 0x0e0d, complemented.
    expected[50..52].copy_from_slice(&[0xf1, 0xf2]);
    assert_eq!(driver.next_outside(), expected);
    // One that is not in the frame costs the frame.
    header[8] = 60;
    driver.tx.send(&[header.as_slice(), &bytes].concat(), &[12]);
    driver.send(&frame(2, 100));
    assert_eq!(driver.next_outside(), frame(2, 100));
}

#[test]
fn what_is_no_frame_is_dropped() {
    let mut driver = Driver::start();
    driver.send(&[]);
    driver.send(&[1; 13]);
    driver.send(&frame(1, MAX_FRAME_BYTES + 1));
    driver.send(&vec![0; 4 << 20]);
    driver.send(&frame(2, 100));
    assert_eq!(driver.next_outside(), frame(2, 100));
}

#[test]
fn chains_that_make_no_sense_stop_the_device_until_it_is_reset() {
    let faulty: [fn(&mut Driver); 6] = [
        |driver| driver.tx.send(&[0; HEADER_BYTES - 1], &[]),
        |driver| driver.tx.offer_raw(1 << 40, 100, 0, 0),
        |driver| driver.tx.offer_raw(u64::MAX - 10, u32::MAX, 0, 0),
        // For the device to write; and a loop.
        |driver| driver.tx.offer_raw(0x5000, 100, 2, 0),
        |driver| driver.tx.break_it(),
        |driver| {
            driver.rx.post(&[4]);
            driver.deliver(&frame(1, 100));
        },
    ];
    let mut driver = Driver::start_with(0, u64::MAX);
    for (faults, fault) in (1..).zip(faulty) {
        fault(&mut driver);
        driver.await_fault(faults);
        driver.device.reset();
        driver.activate(0, u64::MAX);
        driver.send(&frame(7, 100));
        assert_eq!(driver.next_outside(), frame(7, 100));
    }
    // What the guest could not take then is still there.
    driver.rx.post(&[LINUX_RX]);
    assert_eq!(driver.next_inside().0, frame(1, 100));
}

#[test]
fn a_wire_that_is_full_leaves_frames_in_the_ring_and_loses_none() {
    let mut driver = Driver::start_as(3, usize::from(QUEUE_SIZE), u64::MAX);
    let count = u8::try_from(QUEUE_SIZE).expect("small");
    for mark in 0..count {
        driver.offer(&frame(mark, 60_000), &[]);
    }
    std::thread::sleep(SHORT);
    let before = thread_time("net-0003");
    assert!(!driver.tx.drain(SHORT), "nothing holds them up");
    assert!(thread_time("net-0003") - before < 5, "the thread spins");
    // The other way is free meanwhile.
    driver.deliver(&frame(1, 100));
    assert_eq!(driver.next_inside(), (frame(1, 100), 1));
    for mark in 0..count {
        assert!(driver.next_outside() == frame(mark, 60_000), "frame {mark} is another");
    }
    assert!(driver.tx.drain(PATIENCE));
}

#[test]
fn a_guest_without_enough_buffers_is_waited_for_without_spinning() {
    let mut driver = Driver::start_as(4, 10, u64::MAX);
    driver.deliver(&frame(1, MAX_FRAME_BYTES));
    std::thread::sleep(SHORT);
    let before = thread_time("net-0004");
    std::thread::sleep(SHORT * 2);
    assert!(thread_time("net-0004") - before < 5, "the thread spins");
    assert_eq!(driver.rx.used_index(), 0);
    // The other way is free meanwhile.
    driver.send(&frame(2, 100));
    assert_eq!(driver.next_outside(), frame(2, 100));
    for _ in 0..33 {
        driver.rx.post(&[LINUX_RX]);
    }
    assert_eq!(driver.next_inside().1, 43);
}

#[test]
fn a_closed_socket_takes_the_link_down_and_nothing_else() {
    let mut driver = Driver::start();
    let status = |driver: &Driver| {
        let mut space = [0; 8];
        driver.device.read_config(0, &mut space);
        assert_eq!(space[..6], [2, 0, 0, 0, 0, 2]);
        space[6]
    };
    assert_eq!(status(&driver), 1);
    driver.wire.shutdown(Shutdown::Both).expect("shut down");
    await_that(|| status(&driver) == 0);
    await_that(|| driver.bell.changes.load(Ordering::SeqCst) == 1);
    for mark in 0..=u8::MAX {
        driver.send(&frame(mark, 1000));
    }
    driver.device.reset();
    driver.activate(0, u64::MAX);
    driver.send(&frame(1, 100));
    assert_eq!(driver.bell.faults.load(Ordering::SeqCst), 0);
}

#[test]
fn a_socket_that_is_out_of_step_takes_the_link_down() {
    let driver = Driver::start();
    (&driver.wire).write_all(&[0xff; 16]).expect("written");
    await_that(|| driver.bell.changes.load(Ordering::SeqCst) == 1);
    assert_eq!(driver.bell.faults.load(Ordering::SeqCst), 0);
}

#[test]
fn a_reset_in_the_middle_of_a_frame_keeps_the_stream_in_step() {
    let mut driver = Driver::start();
    for mark in 0..20 {
        driver.offer(&frame(mark, MAX_FRAME_BYTES), &[]);
    }
    let bytes = frame(5, 5000);
    (&driver.wire).write_all(&5000_u32.to_be_bytes()).expect("written");
    (&driver.wire).write_all(&bytes[..2000]).expect("written");
    std::thread::sleep(SHORT);
    driver.device.reset();
    driver.activate(usize::from(QUEUE_SIZE), u64::MAX);
    (&driver.wire).write_all(&bytes[2000..]).expect("written");
    assert!(driver.next_inside().0 == bytes);
    driver.offer(&frame(99, 100), &[]);
    let mut marks = 0..;
    loop {
        let frame = driver.next_outside();
        if frame.len() == 100 {
            break assert_eq!(frame[20], 99);
        }
        assert_eq!((frame.len(), Some(frame[20])), (MAX_FRAME_BYTES, marks.next()));
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Send { header: [u8; HEADER_BYTES], length: usize, sizes: Vec<u32> },
    Offer { address: u64, size: u32, flags: u16, next: u16 },
    Post(Vec<u32>),
    Deliver(usize),
    Garble(Vec<u8>),
    Read,
    Reset,
}

fn deed() -> impl Strategy<Value = Deed> {
    let address = prop_oneof![0_u64..20 << 20, any::<u64>()];
    prop_oneof![
        8 => (any::<[u8; HEADER_BYTES]>(), 0_usize..70_000, prop::collection::vec(1_u32..12, 0..2))
            .prop_map(|(header, length, sizes)| Deed::Send { header, length, sizes }),
        1 => (address, any::<u32>(), 0_u16..8, 0..QUEUE_SIZE)
            .prop_map(|(address, size, flags, next)| Deed::Offer { address, size, flags, next }),
        4 => prop::collection::vec(1_u32..5000, 1..8).prop_map(Deed::Post),
        8 => (0_usize..=MAX_FRAME_BYTES).prop_map(Deed::Deliver),
        1 => prop::collection::vec(any::<u8>(), 1..100).prop_map(Deed::Garble),
        4 => Just(Deed::Read),
        2 => Just(Deed::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever a driver and the other side do, a reset device with a wire in step serves.
    #[test]
    fn no_deed_does_lasting_harm(deeds in prop::collection::vec(deed(), 1..80)) {
        let mut driver = Driver::start_with(16, u64::MAX);
        driver.wire.set_nonblocking(true).expect("set");
        for deed in deeds {
            match deed {
                Deed::Send { header, length, sizes } => {
                    driver.tx.send(&[header.as_slice(), &vec![8; length]].concat(), &sizes);
                }
                Deed::Offer { address, size, flags, next } => driver.tx.offer_raw(address, size, flags, next),
                Deed::Post(sizes) => driver.rx.post(&sizes),
                Deed::Deliver(length) => {
                    let announced = u32::try_from(length).expect("short").to_be_bytes();
                    let _ = (&driver.wire).write(&[announced.as_slice(), &vec![8; length]].concat());
                }
                Deed::Garble(bytes) => drop((&driver.wire).write(&bytes)),
                Deed::Read => drop((&driver.wire).read(&mut [0; 100_000])),
                Deed::Reset => {
                    driver.device.reset();
                    driver.activate(16, u64::MAX);
                }
            }
        }
        driver.device.reset();
        driver.activate(16, u64::MAX);
        driver.wire.set_nonblocking(false).expect("set");
        let wire = driver.wire.try_clone().expect("a clone");
        let reading = std::thread::spawn(move || drop((&wire).read_to_end(&mut Vec::new())));
        driver.send(&frame(1, 100));
        driver.wire.shutdown(Shutdown::Both).expect("shut down");
        reading.join().expect("no panic");
        await_that(|| !driver.device.up.load(Ordering::SeqCst));
        let is_active = matches!(driver.device.state, State::Active { .. });
        prop_assert!(is_active);
    }
}
