//! Who is connected: every stream by its id, and by its ports.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;

use super::connection::Connection;
use super::packet::Ports;
use super::stream::Stream;

/// Most connections at once, in both directions together. The guest's further requests are reset; the host's
/// further clients are let go.
pub const MAX_CONNECTIONS: usize = 1024;

/// Where the host's own ports begin, for connections that it asks for: out of the way of ports that services use.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// `VMADDR_PORT_ANY` is no port.
const LAST_HOST_PORT: u32 = u32::MAX - 1;

/// The connections of one guest.
pub(super) struct Table {
    streams: HashMap<u64, Stream>,
    by_ports: HashMap<Ports, u64>,
    next_port: u32,
}

impl Table {
    pub(super) fn new() -> Table {
        Table { streams: HashMap::new(), by_ports: HashMap::new(), next_port: FIRST_HOST_PORT }
    }

    pub(super) fn is_full(&self) -> bool {
        self.streams.len() >= MAX_CONNECTIONS
    }

    /// Adds a stream under an id of its own and ports that no other stream has.
    pub(super) fn insert(&mut self, id: u64, connection: Connection, socket: UnixStream) {
        self.by_ports.insert(connection.ports(), id);
        self.streams.insert(id, Stream::new(connection, socket));
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    pub(super) fn find(&self, ports: Ports) -> Option<u64> {
        self.by_ports.get(&ports).copied()
    }

    /// The guest knows these ports no more; they may be used again while the stream still lingers.
    pub(super) fn forget_ports(&mut self, ports: Ports) {
        self.by_ports.remove(&ports);
    }

    /// Drops a stream, and its socket with it.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id) {
            let ports = stream.connection.ports();
            if self.by_ports.get(&ports) == Some(&id) {
                self.by_ports.remove(&ports);
            }
        }
    }

    /// A port of the host that has no connection to this port of the guest.
    pub(super) fn free_port(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port =
                if self.next_port == LAST_HOST_PORT { FIRST_HOST_PORT } else { self.next_port + 1 };
            // Ends: there are far more ports than connections.
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_wrap_and_skip_those_in_use() {
        let mut table = Table::new();
        let (socket, _client) = UnixStream::pair().expect("a pair");
        let first = table.free_port(9);
        table.insert(16, Connection::dial(first), socket);
        table.next_port = LAST_HOST_PORT;
        assert_eq!(table.free_port(9).host, LAST_HOST_PORT);
        assert_eq!(table.free_port(9).host, FIRST_HOST_PORT + 1, "the first one is in use");
        table.remove(16);
        table.next_port = FIRST_HOST_PORT;
        assert_eq!(table.free_port(9), first);
    }
}
