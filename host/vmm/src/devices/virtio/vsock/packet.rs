//! The header in front of every packet (virtio 1.2, 5.10.6), parsed into typed values before anything acts on it.
//!
//! Pure, and total over bytes: this is what the fuzzer is pointed at.

/// Bytes of a header on the wire.
pub const HEADER_BYTES: usize = 44;
/// The host's address (virtio 1.2, 5.10.4).
pub const HOST_CID: u64 = 2;
/// Most data in one packet, either way. The specification sets no limit; Linux sends up to this much, and a
/// packet that claims more is refused.
pub const MAX_PACKET_BYTES: u32 = 64 * 1024;

/// `VIRTIO_VSOCK_TYPE_STREAM` (5.10.6): the one socket type that is offered.
const TYPE_STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE` (5.10.6.5).
const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`.
const SHUTDOWN_SEND: u32 = 2;

/// Both ends of a connection, as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Of the host's end.
    pub host: u32,
    /// Of the guest's end.
    pub guest: u32,
}

/// Which directions a side gives up for good (5.10.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shutdown {
    /// It will receive no more.
    pub receive: bool,
    /// It will send no more.
    pub send: bool,
}

impl Shutdown {
    /// Both directions.
    pub const BOTH: Shutdown = Shutdown { receive: true, send: true };

    fn from_flags(flags: u32) -> Shutdown {
        Shutdown { receive: flags & SHUTDOWN_RECEIVE != 0, send: flags & SHUTDOWN_SEND != 0 }
    }

    fn flags(self) -> u32 {
        u32::from(self.receive) * SHUTDOWN_RECEIVE + u32::from(self.send) * SHUTDOWN_SEND
    }
}

/// What a packet is for (5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Asks for a connection.
    Request,
    /// Grants one.
    Response,
    /// Ends one, or refuses.
    Reset,
    /// Gives up directions.
    Shutdown(Shutdown),
    /// Carries this many bytes behind the header.
    Data(u32),
    /// Says how much was forwarded and how much room there is.
    CreditUpdate,
    /// Asks for the former.
    CreditRequest,
}

/// A packet that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The connection.
    pub ports: Ports,
    /// What it is for.
    pub operation: Operation,
    /// Size of the sender's receive buffer for this connection.
    pub buffer_bytes: u32,
    /// How many bytes of this connection its sender has taken out of that buffer so far, modulo 2^32.
    pub forwarded: u32,
}

/// Why a packet is not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not from this guest, or not to this host: nobody to answer.
    Ignore,
    /// Addressed properly, yet nonsense: its connection is reset. `socket_type` is what the reset must carry.
    Reset {
        /// The connection.
        ports: Ports,
        /// As the packet had it.
        socket_type: u16,
    },
}

impl Packet {
    /// Understands the header of a packet from the guest whose address is `guest_cid`.
    ///
    /// # Errors
    ///
    /// Why it is refused. A reset is never answered by a reset, whatever else is wrong with it.
    pub fn parse(bytes: &[u8; HEADER_BYTES], guest_cid: u64) -> Result<Packet, Refusal> {
        let header = Fields(bytes);
        if header.u64_at(0) != guest_cid || header.u64_at(8) != HOST_CID {
            return Err(Refusal::Ignore);
        }
        let ports = Ports { guest: header.u32_at(16), host: header.u32_at(20) };
        let data_bytes = header.u32_at(24);
        let socket_type = header.u16_at(28);
        let operation = header.u16_at(30);
        let refuse = match operation {
            3 => Refusal::Ignore,
            _ => Refusal::Reset { ports, socket_type },
        };
        if socket_type != TYPE_STREAM {
            return Err(refuse);
        }
        let operation = match (operation, data_bytes) {
            (1, 0) => Operation::Request,
            (2, 0) => Operation::Response,
            (3, _) => Operation::Reset,
            (4, 0) => Operation::Shutdown(Shutdown::from_flags(header.u32_at(32))),
            (5, bytes) if bytes <= MAX_PACKET_BYTES => Operation::Data(bytes),
            (6, 0) => Operation::CreditUpdate,
            (7, 0) => Operation::CreditRequest,
            _ => return Err(refuse),
        };
        Ok(Packet { ports, operation, buffer_bytes: header.u32_at(36), forwarded: header.u32_at(40) })
    }

    /// The header of this packet from the host to the guest at `guest_cid`.
    #[must_use]
    pub fn encode(&self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let (operation, data_bytes, flags) = match self.operation {
            Operation::Request => (1, 0, 0),
            Operation::Response => (2, 0, 0),
            Operation::Reset => (3, 0, 0),
            Operation::Shutdown(shutdown) => (4, 0, shutdown.flags()),
            Operation::Data(bytes) => (5, bytes, 0),
            Operation::CreditUpdate => (6, 0, 0),
            Operation::CreditRequest => (7, 0, 0),
        };
        encode(
            guest_cid,
            self.ports,
            [TYPE_STREAM, operation],
            [data_bytes, flags, self.buffer_bytes, self.forwarded],
        )
    }
}

/// A reset for something that is no connection, so has no credit to speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrayReset {
    /// What it is about.
    pub ports: Ports,
    /// As in the packet that it answers (5.10.6.4.2: a reset carries the type that was refused).
    pub socket_type: u16,
}

impl StrayReset {
    /// To a packet of the type that is offered.
    #[must_use]
    pub fn stream(ports: Ports) -> StrayReset {
        StrayReset { ports, socket_type: TYPE_STREAM }
    }

    /// Its header.
    #[must_use]
    pub fn encode(&self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        encode(guest_cid, self.ports, [self.socket_type, 3], [0; 4])
    }
}

/// Lays out a header; `words` are data length, flags, buffer size and bytes forwarded.
fn encode(guest_cid: u64, ports: Ports, kind: [u16; 2], words: [u32; 4]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&HOST_CID.to_le_bytes());
    bytes[8..16].copy_from_slice(&guest_cid.to_le_bytes());
    bytes[16..20].copy_from_slice(&ports.host.to_le_bytes());
    bytes[20..24].copy_from_slice(&ports.guest.to_le_bytes());
    bytes[24..28].copy_from_slice(&words[0].to_le_bytes());
    bytes[28..30].copy_from_slice(&kind[0].to_le_bytes());
    bytes[30..32].copy_from_slice(&kind[1].to_le_bytes());
    bytes[32..36].copy_from_slice(&words[1].to_le_bytes());
    bytes[36..40].copy_from_slice(&words[2].to_le_bytes());
    bytes[40..44].copy_from_slice(&words[3].to_le_bytes());
    bytes
}

/// Little-endian fields at fixed offsets, all of them within [`HEADER_BYTES`].
struct Fields<'a>(&'a [u8; HEADER_BYTES]);

impl Fields<'_> {
    fn bytes_at<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[offset + index])
    }

    fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes_at(offset))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes_at(offset))
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes_at(offset))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const GUEST: u64 = 7;

    /// The header of a packet from the guest.
    pub(crate) fn from_guest(packet: Packet) -> [u8; HEADER_BYTES] {
        let mut bytes = packet.encode(GUEST);
        bytes[0..8].copy_from_slice(&GUEST.to_le_bytes());
        bytes[8..16].copy_from_slice(&HOST_CID.to_le_bytes());
        bytes[16..20].copy_from_slice(&packet.ports.guest.to_le_bytes());
        bytes[20..24].copy_from_slice(&packet.ports.host.to_le_bytes());
        bytes
    }

    fn packet(operation: Operation) -> Packet {
        Packet { ports: Ports { host: 5, guest: 9 }, operation, buffer_bytes: 77, forwarded: 0xffff_fff0 }
    }

    #[test]
    fn every_operation_survives_the_wire() {
        let operations = [
            Operation::Request,
            Operation::Response,
            Operation::Reset,
            Operation::Shutdown(Shutdown { receive: true, send: false }),
            Operation::Shutdown(Shutdown::BOTH),
            Operation::Data(0),
            Operation::Data(MAX_PACKET_BYTES),
            Operation::CreditUpdate,
            Operation::CreditRequest,
        ];
        for operation in operations {
            assert_eq!(Packet::parse(&from_guest(packet(operation)), GUEST), Ok(packet(operation)));
        }
    }

    #[test]
    fn strangers_are_ignored() {
        let bytes = from_guest(packet(Operation::Request));
        assert_eq!(Packet::parse(&bytes, GUEST + 1), Err(Refusal::Ignore));
        let mut elsewhere = bytes;
        elsewhere[8] = 3;
        assert_eq!(Packet::parse(&elsewhere, GUEST), Err(Refusal::Ignore));
    }

    #[test]
    fn nonsense_is_reset_with_its_own_type_but_a_reset_never() {
        let mut bytes = from_guest(packet(Operation::Request));
        bytes[28] = 9;
        let ports = Ports { host: 5, guest: 9 };
        assert_eq!(Packet::parse(&bytes, GUEST), Err(Refusal::Reset { ports, socket_type: 9 }));
        bytes[30] = 3;
        assert_eq!(Packet::parse(&bytes, GUEST), Err(Refusal::Ignore));
        let oversize = from_guest(packet(Operation::Data(MAX_PACKET_BYTES + 1)));
        assert_eq!(Packet::parse(&oversize, GUEST), Err(Refusal::Reset { ports, socket_type: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in prop::array::uniform32(any::<u8>()), operation in 0u16..9) {
            let mut header = [0; HEADER_BYTES];
            header[12..].copy_from_slice(&bytes);
            header[0..16].copy_from_slice(&from_guest(packet(Operation::Request))[0..16]);
            header[30..32].copy_from_slice(&operation.to_le_bytes());
            if let Ok(packet) = Packet::parse(&header, GUEST) {
                prop_assert_eq!(Packet::parse(&from_guest(packet), GUEST), Ok(packet));
            }
        }
    }
}
