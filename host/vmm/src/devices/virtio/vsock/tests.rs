//! The whole device against a driver in plain memory.

mod driver;
mod hostile;

use std::io::{Read, Write};
use std::net::Shutdown as Direction;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::connection::BUFFER_BYTES;
use super::packet::tests::from_guest;
use super::packet::{Operation, Packet, Ports, Shutdown};
use super::table::MAX_CONNECTIONS;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::ring_driver::thread_time;
use driver::{Driver, WINDOW, gives_up};

/// Receive buffers as Linux posts them.
const LINUX_RX: &[u32] = &[3776];
const SHORT: Duration = Duration::from_millis(200);

fn stranger(operation: Operation) -> Packet {
    Packet { ports: Ports { host: 99, guest: 98 }, operation, buffer_bytes: WINDOW, forwarded: 0 }
}

#[test]
fn a_client_reaches_a_port_of_the_guest_and_data_flows_both_ways() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    assert_eq!(ports.guest, 52);
    client.write_all(b"to the guest").expect("written");
    let (packet, data) = driver.receive();
    assert_eq!((packet.operation, data.as_slice()), (Operation::Data(12), b"to the guest".as_slice()));
    driver.send_data(ports, b"to the host");
    let mut answer = [0; 11];
    client.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"to the host");
}

#[test]
fn a_client_that_the_guest_refuses_reads_an_end() {
    let mut driver = Driver::start(LINUX_RX);
    let mut client = driver.client();
    client.write_all(b"CONNECT 7\n").expect("written");
    let request = driver.expect(Operation::Request);
    driver.send(request.ports, Operation::Reset, &[], 0);
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_client_that_leaves_while_dialling_resets_the_request() {
    let mut driver = Driver::start(LINUX_RX);
    let mut client = driver.client();
    client.write_all(b"CONNECT 7\n").expect("written");
    driver.expect(Operation::Request);
    drop(client);
    driver.expect(Operation::Reset);
}

#[test]
fn the_guest_reaches_a_socket_of_the_host() {
    let mut driver = Driver::start(LINUX_RX);
    let listener = driver.listen(80);
    let ports = Ports { host: 80, guest: 1234 };
    driver.send(ports, Operation::Request, &[], 0);
    let response = driver.expect(Operation::Response);
    assert_eq!((response.ports, response.buffer_bytes), (ports, BUFFER_BYTES));
    let (mut server, _) = listener.accept().expect("accepted");
    driver.send_data(ports, b"hello");
    let mut greeting = [0; 5];
    server.read_exact(&mut greeting).expect("read");
    assert_eq!(&greeting, b"hello");
}

#[test]
fn a_port_where_nobody_listens_refuses_the_guest() {
    let mut driver = Driver::start(LINUX_RX);
    let ports = Ports { host: 81, guest: 1234 };
    driver.send(ports, Operation::Request, &[], 0);
    assert_eq!(driver.expect(Operation::Reset).ports, ports);
}

#[test]
fn a_half_close_by_the_host_leaves_the_other_half_open() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    client.write_all(b"last words").expect("written");
    client.shutdown(Direction::Write).expect("shut down");
    assert_eq!(driver.receive().1, b"last words");
    driver.expect(gives_up(true, false));
    driver.send_data(ports, b"still here");
    let mut answer = [0; 10];
    client.read_exact(&mut answer).expect("read");
    drop(client);
    driver.expect(gives_up(true, true));
    // The guest's answer to that is a reset, and nobody answers it.
    driver.send(ports, Operation::Reset, &[], 0);
    assert!(driver.try_receive(SHORT).is_none());
}

#[test]
fn a_half_close_by_the_guest_comes_after_its_data() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    let data = vec![7; BUFFER_BYTES as usize];
    for part in data.chunks(65536) {
        driver.send_data(ports, part);
    }
    driver.send(ports, gives_up(true, false), &[], 0);
    client.write_all(b"reply").expect("written");
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read to the end");
    assert!(received == data, "{} bytes arrived", received.len());
    while driver.receive().1 != b"reply" {}
}

#[test]
fn a_full_close_by_the_guest_is_reset_after_its_data() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    let data = vec![9; BUFFER_BYTES as usize];
    for part in data.chunks(65536) {
        driver.send_data(ports, part);
    }
    driver.send(ports, Operation::Shutdown(Shutdown::BOTH), &[], 0);
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read to the end");
    assert_eq!(received.len(), data.len());
    while driver.receive().0.operation != Operation::Reset {}
}

#[test]
fn what_the_guest_sent_before_a_reset_is_delivered() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    for _ in 0..4 {
        driver.send_data(ports, &[3; 65536]);
    }
    driver.send(ports, Operation::Reset, &[], 0);
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read to the end");
    assert_eq!(received.len(), 4 * 65536);
}

#[test]
fn a_client_that_leaves_ends_the_connection_for_the_guest() {
    let mut driver = Driver::start(LINUX_RX);
    let (client, ports) = driver.connect(52);
    drop(client);
    let mut told = Shutdown::default();
    while told != Shutdown::BOTH {
        if let Operation::Shutdown(shutdown) = driver.receive().0.operation {
            told = shutdown;
        }
    }
    driver.send_data(ports, b"too late");
    driver.expect(Operation::Reset);
}

#[test]
fn packets_may_be_spread_over_any_descriptors() {
    let mut driver = Driver::start(&[10, 40, 1, 1, 500, 3]);
    let (mut client, ports) = driver.connect(52);
    let data: Vec<u8> = (0..60_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    let packet = Packet { ports, operation: Operation::Data(60_000), buffer_bytes: WINDOW, forwarded: 0 };
    let bytes = [from_guest(packet).as_slice(), &data].concat();
    driver.send_raw(&bytes, &[1, 2, 40, 3, 10_000, 1, 1, 20_000]);
    let mut received = vec![0; data.len()];
    client.read_exact(&mut received).expect("read");
    assert!(received == data, "the bytes are others");

    client.write_all(&data).expect("written");
    let mut received = Vec::new();
    while received.len() < data.len() {
        received.append(&mut driver.receive().1);
    }
    assert!(received == data, "the bytes are others");
}

#[test]
fn a_flood_beyond_the_credit_is_reset_and_the_rest_lives() {
    let mut driver = Driver::start(LINUX_RX);
    let (_deaf, flooded) = driver.connect(52);
    let (mut client, ports) = driver.connect(53);
    // The unix socket takes some, the backlog its share, and then it is more than was granted.
    let mut resets = 0;
    for _ in 0..64 {
        driver.send_data(flooded, &[0; 65536]);
        while let Some((packet, _)) = driver.try_receive(Duration::from_millis(1)) {
            resets += u32::from(packet.operation == Operation::Reset && packet.ports == flooded);
        }
    }
    assert!(resets > 0, "the flood was never reset");
    driver.send_data(ports, b"fine");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).expect("read");
}

#[test]
fn nonsense_is_answered_by_resets_or_not_at_all() {
    let mut driver = Driver::start(LINUX_RX);
    for operation in [Operation::Data(0), Operation::CreditUpdate, Operation::Response] {
        driver.send_raw(&from_guest(stranger(operation)), &[]);
        driver.expect(Operation::Reset);
    }
    let mut seqpacket = from_guest(stranger(Operation::Request));
    seqpacket[28] = 2;
    driver.send_raw(&seqpacket, &[]);
    driver.expect(Operation::Reset);
    // A reset, a header cut short, another guest's address.
    driver.send_raw(&from_guest(stranger(Operation::Reset)), &[]);
    driver.send_raw(&from_guest(stranger(Operation::Request))[..20], &[]);
    let mut elsewhere = from_guest(stranger(Operation::Request));
    elsewhere[0] += 1;
    driver.send_raw(&elsewhere, &[]);
    // Outside of memory, empty, for the device to write, and a loop.
    driver.offer_raw(1 << 40, 100, 0, 0);
    driver.offer_raw(0x5000, 0, 0, 0);
    driver.offer_raw(0x5000, 100, 2, 0);
    driver.offer_raw(u64::MAX - 10, u32::MAX, 1, 0);
    driver.offer_raw(0x5000, 44, 1, 0);
    assert!(driver.try_receive(SHORT).is_none());
    driver.connect(52);
}

#[test]
fn less_data_than_the_header_says_resets_the_connection() {
    let mut driver = Driver::start(LINUX_RX);
    let (_client, ports) = driver.connect(52);
    let packet = Packet { ports, operation: Operation::Data(500), buffer_bytes: WINDOW, forwarded: 0 };
    driver.send_raw(&from_guest(packet), &[]);
    driver.expect(Operation::Reset);
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let mut driver = Driver::start(LINUX_RX);
    driver.break_tx_ring();
    while driver.bell.faults.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    driver.device.reset();
    driver.activate();
    driver.connect(52);
}

#[test]
fn reset_with_connections_open_ends_them() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, _) = driver.connect(52);
    driver.device.reset();
    assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    driver.activate();
    driver.connect(52);
}

#[test]
fn no_receive_buffers_is_waited_for_without_spinning() {
    // An address of its own, which its thread is named after.
    let mut driver = Driver::start_as(4242, &[]);
    let mut client = driver.client();
    client.write_all(b"CONNECT 7\n").expect("written");
    assert!(driver.try_receive(SHORT).is_none());
    let before = thread_time("vsock-4242");
    std::thread::sleep(SHORT);
    assert!(thread_time("vsock-4242") - before < 5, "the thread spins");
}

#[test]
fn requests_beyond_the_cap_are_reset() {
    let mut driver = Driver::start(LINUX_RX);
    let listener = driver.listen(80);
    listener.set_nonblocking(true).expect("non-blocking");
    let mut accepted = Vec::new();
    let cap = u32::try_from(MAX_CONNECTIONS).expect("small");
    for guest in 0..=cap {
        driver.send(Ports { host: 80, guest }, Operation::Request, &[], 0);
        let (answer, _) = driver.receive();
        let expected = if guest < cap { Operation::Response } else { Operation::Reset };
        assert_eq!(answer.operation, expected, "connection {guest}");
        accepted.extend(listener.accept());
    }
    drop(accepted);
}

#[test]
fn a_starved_stream_asks_for_credit_and_goes_on() {
    let mut driver = Driver::start(LINUX_RX);
    let (mut client, ports) = driver.connect(52);
    let data = vec![1; WINDOW as usize + 100];
    let writer = std::thread::spawn(move || client.write_all(&data).map(|()| client));
    let mut received = 0;
    loop {
        match driver.receive() {
            (Packet { operation: Operation::CreditRequest, .. }, _) => break,
            (_, data) => received += data.len(),
        }
    }
    assert_eq!(received, WINDOW as usize);
    driver.send(ports, Operation::CreditUpdate, &[], WINDOW);
    assert_eq!(driver.receive().1.len(), 100);
    writer.join().expect("joined").expect("written");
}
