//! A driver that says whatever comes to its mind, while the host's clients do what they like: whatever happens, the
//! device must not stop serving.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::driver::Driver;
use crate::devices::virtio::vsock::packet::tests::GUEST;
use crate::devices::virtio::vsock::packet::{HEADER_BYTES, HOST_CID};

/// The port of the host where somebody listens.
const OPEN_PORT: u32 = 80;

#[derive(Debug, Clone)]
enum Deed {
    /// A packet with these fields, this much data behind it, in segments of these sizes.
    Packet {
        header: [u8; HEADER_BYTES],
        data: usize,
        sizes: Vec<u32>,
    },
    /// A client connects and asks for a port.
    Dial(u32),
    /// The newest client writes, reads or leaves.
    ClientWrites(usize),
    ClientReads,
    ClientLeaves,
    /// The driver takes what it was sent, so that there are buffers again.
    Drain,
}

/// Few ports, so that packets meet connections; mostly proper addresses, operations and lengths.
fn header() -> impl Strategy<Value = ([u8; HEADER_BYTES], usize)> {
    let ports = (0u32..3, prop_oneof![Just(OPEN_PORT), Just(1 << 30), Just((1 << 30) + 1), Just(7)]);
    let operation = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let kind = prop_oneof![19 => Just(1u16), 1 => any::<u16>()];
    let data = prop_oneof![0usize..200, 0usize..70_000];
    let claimed = prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)];
    let credit = (any::<u32>(), prop_oneof![0u32..4096, any::<u32>()], any::<u32>());
    (ports, operation, kind, data, claimed, credit).prop_map(
        |((guest, host), operation, kind, data, claimed, (flags, buffer, forwarded))| {
            let data = if operation == 5 { data } else { 0 };
            let length = claimed.unwrap_or(u32::try_from(data).expect("small"));
            let mut header = [0; HEADER_BYTES];
            header[0..8].copy_from_slice(&GUEST.to_le_bytes());
            header[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
            for (at, word) in
                [(16, guest), (20, host), (24, length), (32, flags), (36, buffer), (40, forwarded)]
            {
                header[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            header[28..30].copy_from_slice(&kind.to_le_bytes());
            header[30..32].copy_from_slice(&operation.to_le_bytes());
            (header, data)
        },
    )
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (header(), prop::collection::vec(1u32..44, 0..2)).prop_map(|((header, data), sizes)| {
            let sizes = if sizes.iter().sum::<u32>() > 44 { vec![] } else { sizes };
            Deed::Packet { header, data, sizes }
        }),
        1 => (0u32..3).prop_map(Deed::Dial),
        1 => (0usize..100_000).prop_map(Deed::ClientWrites),
        1 => Just(Deed::ClientReads),
        1 => Just(Deed::ClientLeaves),
        2 => Just(Deed::Drain),
    ]
}

fn commit(driver: &mut Driver, clients: &mut Vec<UnixStream>, deed: Deed) {
    match deed {
        Deed::Packet { header, data, sizes } => {
            let bytes = [header.as_slice(), &vec![1; data]].concat();
            driver.send_raw(&bytes, &sizes);
        }
        Deed::Dial(port) => {
            let mut client = driver.client();
            client.set_nonblocking(true).expect("set");
            client.write_all(format!("CONNECT {port}\n").as_bytes()).expect("written");
            clients.push(client);
        }
        Deed::ClientWrites(bytes) => {
            let _ = clients.last_mut().map(|client| client.write(&vec![2; bytes]));
        }
        Deed::ClientReads => {
            let _ = clients.last_mut().map(|client| client.read(&mut [0; 65536]));
        }
        Deed::ClientLeaves => {
            clients.pop();
        }
        Deed::Drain => while driver.try_receive(Duration::ZERO).is_some() {},
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_device_goes_on_serving(deeds in prop::collection::vec(deed(), 1..150)) {
        let mut driver = Driver::start(&[3776]);
        let listener = driver.listen(OPEN_PORT);
        listener.set_nonblocking(true).expect("set");
        let mut clients = Vec::new();
        for deed in deeds {
            commit(&mut driver, &mut clients, deed);
            while let Ok((accepted, _)) = listener.accept() {
                accepted.set_nonblocking(true).expect("set");
                clients.push(accepted);
            }
        }
        clients.clear();
        while driver.try_receive(Duration::from_millis(20)).is_some() {}
        prop_assert_eq!(driver.bell.faults.load(Ordering::SeqCst), 0);
        driver.connect(1000);
    }
}
