//! Clients of the host's socket that have not yet said which port they want.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use rustix::net::RecvFlags;

/// Most clients that may be undecided at once. There is no deadline: when one more comes, the one that has waited
/// longest is dropped.
pub(super) const MAX_CLIENTS: usize = 128;
/// Longest request, with its end of line: `CONNECT 4294967295` and room for an extra blank.
pub(super) const MAX_LINE_BYTES: usize = 32;

/// What a client has asked so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Not all of it has come.
    Incomplete,
    /// It is no request.
    Invalid,
    /// For this port of the guest, with a line of so many bytes.
    Connect { port: u32, bytes: usize },
}

/// Reads `CONNECT <port>\n` off the beginning of what a client wrote.
pub(super) fn parse_line(bytes: &[u8]) -> Line {
    let Some(end) = bytes.iter().take(MAX_LINE_BYTES).position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_LINE_BYTES { Line::Incomplete } else { Line::Invalid };
    };
    let port = std::str::from_utf8(&bytes[..end])
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok());
    port.map_or(Line::Invalid, |port| Line::Connect { port, bytes: end + 1 })
}

/// The undecided clients, by the id under which they are polled.
#[derive(Default)]
pub(super) struct Clients {
    sockets: HashMap<u64, UnixStream>,
    order: VecDeque<u64>,
}

impl Clients {
    /// Takes a client in, and drops the oldest if there are too many.
    pub(super) fn insert(&mut self, id: u64, socket: UnixStream) {
        while self.sockets.len() >= MAX_CLIENTS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.sockets.remove(&oldest);
        }
        self.order.push_back(id);
        self.sockets.insert(id, socket);
    }

    /// Something came from a client, or it left: the port and the client if its request is complete. What follows
    /// the request stays in the socket. A client that is gone or writes nonsense is dropped.
    pub(super) fn advance(&mut self, id: u64) -> Option<(u32, UnixStream)> {
        let socket = self.sockets.get(&id)?;
        let mut bytes = [0; MAX_LINE_BYTES];
        let peeked = rustix::net::recv(socket, bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let line = match peeked {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
            Err(_) | Ok((0, _)) => Line::Invalid,
            Ok((count, _)) => parse_line(&bytes[..count]),
        };
        let (port, line_bytes) = match line {
            Line::Incomplete => return None,
            Line::Invalid => {
                self.remove(id);
                return None;
            }
            Line::Connect { port, bytes } => (port, bytes),
        };
        let socket = self.remove(id)?;
        let consumed = rustix::net::recv(&socket, &mut bytes[..line_bytes], RecvFlags::DONTWAIT);
        matches!(consumed, Ok((count, _)) if count == line_bytes).then_some((port, socket))
    }

    fn remove(&mut self, id: u64) -> Option<UnixStream> {
        self.order.retain(|&other| other != id);
        self.sockets.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_request_is_read_to_its_end_of_line() {
        assert_eq!(parse_line(b"CONNECT 52\nrest"), Line::Connect { port: 52, bytes: 11 });
        assert_eq!(parse_line(b"CONNECT 4294967295\n"), Line::Connect { port: u32::MAX, bytes: 19 });
        assert_eq!(parse_line(b"CONN"), Line::Incomplete);
        assert_eq!(parse_line(b""), Line::Incomplete);
        for bad in
            ["CONNECT \n", "CONNECT +1\n", "CONNECT 4294967296\n", "connect 1\n", "\n", "CONNECT 1 2\n"]
        {
            assert_eq!(parse_line(bad.as_bytes()), Line::Invalid, "{bad:?}");
        }
        assert_eq!(parse_line(&[b'x'; MAX_LINE_BYTES]), Line::Invalid);
        assert_eq!(parse_line(&[b'x'; 4096]), Line::Invalid);
    }

    #[test]
    fn what_follows_the_request_stays_in_the_socket() {
        let (mut client, socket) = UnixStream::pair().expect("a pair");
        let mut clients = Clients::default();
        clients.insert(16, socket);
        client.write_all(b"CONNE").expect("written");
        assert!(clients.advance(16).is_none());
        client.write_all(b"CT 7\nhello").expect("written");
        let (port, mut socket) = clients.advance(16).expect("complete");
        drop(client);
        let mut rest = String::new();
        socket.read_to_string(&mut rest).expect("read");
        assert_eq!((port, rest.as_str()), (7, "hello"));
    }

    #[test]
    fn one_too_many_drops_the_oldest() {
        let mut clients = Clients::default();
        let mut ends: Vec<_> = (0..=MAX_CLIENTS as u64)
            .map(|id| {
                let (client, socket) = UnixStream::pair().expect("a pair");
                clients.insert(id, socket);
                client
            })
            .collect();
        assert_eq!(ends[0].read(&mut [0]).expect("end of stream"), 0);
        assert_eq!(clients.sockets.len(), MAX_CLIENTS);
    }
}
