//! A host's network of a test's own, with servers on it: what a container sees of the world.
//!
//! A thread takes itself to a network namespace, and what it starts from then on is there with it: threads, programs,
//! daemons and their containers. There are no other networks in it, so nothing of the machine's can be reached or
//! disturbed.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// The host's address on its network.
pub const HOST_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
/// The same of IPv6.
pub const HOST_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9));
/// A pair (its module is not loaded by itself everywhere), of which the one end is the host's card and the other stands for its network.
const SETUP: &str = "modprobe -q veth || true
    ip link set lo up
    ip link add card type veth peer name wire
    ip link set card up
    ip link set wire up
    ip addr add 192.0.2.9/24 dev card
    ip -6 addr add fd00:1::9/64 dev card nodad
    ip route add default via 192.0.2.1
    ip -6 route add default via fd00:1::1";

/// Takes this thread to a network of its own. False, with the reason told, where that is not allowed; an error where
/// `CAPSID_REQUIRE=all` says that it must be.
///
/// # Panics
///
/// When the network cannot be made, or is required and not allowed.
#[must_use]
pub fn enter() -> bool {
    // The mounts, too: some tests change what the host's files say.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
        let reason = format!("skipped: no network namespace for the test: {error}");
        assert!(std::env::var_os("CAPSID_REQUIRE").is_none_or(|required| required != "all"), "{reason}");
        eprintln!("{reason}");
        return false;
    }
    shell("mount --make-rprivate /");
    shell(SETUP);
    true
}

/// Puts another file in the place of one of the host's, for this test.
///
/// # Panics
///
/// When it cannot be mounted.
pub fn replace(path: &str, by: &Path) {
    shell(&format!("mount --bind {} {path}", by.display()));
}

fn shell(script: &str) {
    let done = Command::new("sh").args(["-euc", script]).output().expect("a shell");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Counts what a server was asked.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

impl Count {
    /// How often, so far.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Serves every connection to `address` with `serve`, until the test's process ends.
///
/// # Panics
///
/// When the port cannot be had.
pub fn serve_tcp(address: IpAddr, serve: impl Fn(TcpStream) + Send + Clone + 'static) -> (SocketAddr, Count) {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let (place, count) = (listener.local_addr().expect("an address"), Count::default());
    let counted = count.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            counted.0.fetch_add(1, Ordering::SeqCst);
            let serve = serve.clone();
            thread::spawn(move || serve(connection));
        }
    });
    (place, count)
}

/// Answers one HTTP request, whatever it asks for, with `body`.
pub fn answer_http(connection: TcpStream, body: &[u8]) {
    let mut connection = BufReader::new(connection);
    while matches!(connection.read_line(&mut String::new()), Ok(3..)) {}
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = connection.get_mut().write_all(&[head.as_bytes(), body].concat());
}

/// Answers datagrams to `address` with what `answer` makes of them.
///
/// # Panics
///
/// When the port cannot be had.
pub fn serve_udp(
    address: SocketAddr,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, Count) {
    let socket = UdpSocket::bind(address).expect("a port");
    let (place, count) = (socket.local_addr().expect("an address"), Count::default());
    let counted = count.clone();
    thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            counted.0.fetch_add(1, Ordering::SeqCst);
            let _ = socket.send_to(&answer(&datagram[..length]), from);
        }
    });
    (place, count)
}

/// A resolver that knows one host for every name: this one, by its IPv4 address (RFC 1035, 4.1).
#[must_use]
pub fn answer_dns(question: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    const A: [u8; 4] = [0, 1, 0, 1];
    const TTL_AND_LENGTH: [u8; 6] = [0, 0, 0, 60, 0, 4];
    let Some(end) = question.iter().skip(HEADER).position(|byte| *byte == 0).map(|at| HEADER + at + 5) else {
        return Vec::new();
    };
    let Some(asked) = question.get(HEADER..end) else { return Vec::new() };
    let known = asked.ends_with(&A);
    let mut answer = question[..2].to_vec();
    // A response without error, one question, at most one answer.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    answer.extend_from_slice(asked);
    if let (true, IpAddr::V4(address)) = (known, HOST_IPV4) {
        // The name is the question's.
        answer.extend([0xc0, 0x0c].iter().chain(&A).chain(&TTL_AND_LENGTH).chain(&address.octets()));
    }
    answer
}
