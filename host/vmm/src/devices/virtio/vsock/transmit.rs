//! From the guest to the host: packets off the tx ring.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::super::ring::{self, RingFault};
use super::connection::{Connection, Reaction, Violation};
use super::packet::{Operation, Packet, Refusal, StrayReset};
use super::worker::Worker;

/// Most packets in one round.
const MAX_PACKETS: usize = 128;
/// Most resets that wait for room in the guest's rx ring. Beyond it the guest's packets wait as well: it gets what
/// it asks for as soon as it takes what it is owed.
const MAX_STRAYS: usize = 1024;

impl Worker {
    /// One round over the tx ring. True if there is more.
    pub(super) fn receive_from_guest(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        self.tx.spare_kicks(memory)?;
        for _ in 0..MAX_PACKETS {
            if self.strays.len() >= MAX_STRAYS {
                return Ok(false);
            }
            let mut segments = Vec::new();
            let Some(chain) = self.tx.next(memory, &mut segments)? else {
                return self.tx.ask_for_kick(memory);
            };
            self.take_packet(segments);
            self.tx.complete(memory, chain, 0)?;
        }
        Ok(true)
    }

    /// Acts on one packet. One without a whole header has nobody to answer.
    fn take_packet(&mut self, mut segments: Vec<VolatileSlice<'_>>) {
        let Some(header) = ring::take_header(&mut segments) else { return };
        match Packet::parse(&header, self.host.guest_cid) {
            Err(Refusal::Ignore) => {}
            Err(Refusal::Reset { ports, socket_type }) => match self.table.find(ports) {
                Some(id) if socket_type == StrayReset::stream(ports).socket_type => self.reset(id),
                _ => self.refuse(StrayReset { ports, socket_type }),
            },
            Ok(packet) => {
                let bytes = match packet.operation {
                    Operation::Data(bytes) => bytes as usize,
                    _ => 0,
                };
                let complete = ring::shorten(&mut segments, bytes);
                match self.table.find(packet.ports) {
                    None => self.take_unconnected(&packet),
                    Some(id) if complete => self.take_connected(id, &packet, segments),
                    Some(id) => self.reset(id),
                }
            }
        }
    }

    fn take_unconnected(&mut self, packet: &Packet) {
        let accepted = match packet.operation {
            Operation::Reset => return,
            Operation::Request if !self.table.is_full() => self.dial_host(packet),
            _ => None,
        };
        if accepted.is_none() {
            self.refuse(StrayReset::stream(packet.ports));
        }
    }

    /// Connects the guest to the socket of the port it asks for.
    fn dial_host(&mut self, request: &Packet) -> Option<()> {
        let mut path = self.host.guest_dials.as_ref()?.clone().into_os_string();
        path.push(format!("_{}", request.ports.host));
        let socket = connect(PathBuf::from(path)).ok()?;
        let id = self.watch_socket(&socket)?;
        self.table.insert(id, Connection::accept(request), socket);
        self.settle(id);
        Some(())
    }

    fn take_connected(&mut self, id: u64, packet: &Packet, segments: Vec<VolatileSlice<'_>>) {
        let Some(stream) = self.table.get(id) else { return };
        match stream.connection.handle(packet) {
            Ok(Reaction::None) => {}
            Ok(Reaction::Accepted) => stream.confirm(),
            Ok(Reaction::Forward) => stream.forward(segments),
            Ok(Reaction::ShutDown) => stream.pass_on_shutdown(),
            Ok(Reaction::Ended) => {
                stream.linger();
                self.table.forget_ports(packet.ports);
            }
            Err(Violation) => stream.connection.reset(),
        }
        self.settle(id);
    }

    fn reset(&mut self, id: u64) {
        if let Some(stream) = self.table.get(id) {
            stream.connection.reset();
        }
        self.settle(id);
    }

    /// Owes a reset to the guest; one is enough for a run of packets of the same kind.
    fn refuse(&mut self, stray: StrayReset) {
        if self.strays.back() != Some(&stray) {
            self.strays.push_back(stray);
        }
    }
}

/// Connects without ever waiting: where nobody accepts, the guest is refused.
fn connect(path: PathBuf) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}
