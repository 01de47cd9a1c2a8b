//! One connection's state and credit, without any I/O.
//!
//! ```text
//!  host dials:   dialled ──response──▶ established        guest dials: established at once
//!                                          │
//!                 each side gives up sending, receiving, or both (SHUTDOWN), at its own pace
//!                                          │
//!      the host has given up both: it is told so, and the connection is forgotten
//!      the guest has given up both, and all its data is forwarded: reset, as 5.10.6.5 asks
//! ```
//!
//! Credit (virtio 1.2, 5.10.6.3) runs the same way in both directions: whoever receives says how large its buffer is
//! and how much it has taken out so far, and the sender keeps at most the difference under way. Counters wrap.

use super::packet::{Operation, Packet, Ports, Shutdown};

/// Room for data that the guest sent and the host's client has not read, for each connection: as Linux's default.
pub const BUFFER_BYTES: u32 = 256 * 1024;
/// The guest hears of room unasked when this much more of it has appeared than it knows of.
const CREDIT_STEP: u32 = BUFFER_BYTES / 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest has not answered the host's request.
    Dialled,
    Established,
}

/// What the owner has to do about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    None,
    /// The guest accepted: tell the client.
    Accepted,
    /// Forward this many bytes, or keep them; [`Connection::forwarded`] when they are gone.
    Forward,
    /// The guest gave up a direction; see [`Connection::guest_gave_up`].
    ShutDown,
    /// The guest reset it: forget it, without an answer.
    Ended,
}

/// A packet that a driver which follows the specification would not have sent. The connection is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// Packets that are owed to the guest.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
    reset: bool,
}

/// A connection between a port of the host and one of the guest.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    phase: Phase,
    due: Due,
    host_gave_up: Shutdown,
    guest_gave_up: Shutdown,
    was_reset: bool,
    /// Host to guest: bytes sent, bytes the guest has taken, and its buffer's size.
    sent: u32,
    guest_took: u32,
    guest_buffer: u32,
    /// A request for credit is under way.
    asked: bool,
    /// Guest to host: bytes received, bytes forwarded, and how many of those the guest knows of.
    received: u32,
    forwarded: u32,
    told: u32,
}

impl Connection {
    /// One that the host asks for.
    #[must_use]
    pub fn dial(ports: Ports) -> Connection {
        let due = Due { request: true, ..Due::default() };
        Connection { due, ..Connection::new(ports, Phase::Dialled) }
    }

    /// One that the guest asked for and gets.
    #[must_use]
    pub fn accept(request: &Packet) -> Connection {
        let due = Due { response: true, ..Due::default() };
        let guest_buffer = request.buffer_bytes;
        Connection { due, guest_buffer, ..Connection::new(request.ports, Phase::Established) }
    }

    fn new(ports: Ports, phase: Phase) -> Connection {
        Connection {
            ports,
            phase,
            due: Due::default(),
            host_gave_up: Shutdown::default(),
            guest_gave_up: Shutdown::default(),
            was_reset: false,
            sent: 0,
            guest_took: 0,
            guest_buffer: 0,
            asked: false,
            received: 0,
            forwarded: 0,
            told: 0,
        }
    }

    /// Its ends.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The guest has accepted.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// The directions that the guest gave up.
    #[must_use]
    pub fn guest_gave_up(&self) -> Shutdown {
        self.guest_gave_up
    }

    /// The host's client takes no more of the guest's data.
    #[must_use]
    pub fn host_receives(&self) -> bool {
        !self.host_gave_up.receive
    }

    /// Takes note of a packet from the guest.
    ///
    /// # Errors
    ///
    /// The packet breaks the protocol, credit included.
    pub fn handle(&mut self, packet: &Packet) -> Result<Reaction, Violation> {
        self.note_credit(packet);
        match packet.operation {
            Operation::Reset => Ok(Reaction::Ended),
            _ if self.was_reset => Ok(Reaction::None),
            Operation::Response if self.phase == Phase::Dialled => {
                self.phase = Phase::Established;
                Ok(Reaction::Accepted)
            }
            Operation::Request | Operation::Response => Err(Violation),
            _ if self.phase == Phase::Dialled => Err(Violation),
            Operation::Data(bytes) => self.receive(bytes),
            Operation::Shutdown(shutdown) => {
                self.guest_gave_up.receive |= shutdown.receive;
                self.guest_gave_up.send |= shutdown.send;
                Ok(Reaction::ShutDown)
            }
            Operation::CreditUpdate => Ok(Reaction::None),
            Operation::CreditRequest => {
                self.due.credit_update = true;
                Ok(Reaction::None)
            }
        }
    }

    /// This many of the bytes received have left the buffer.
    pub fn forwarded(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.received.wrapping_sub(self.forwarded), "more forwarded than received");
        self.forwarded = self.forwarded.wrapping_add(bytes);
        let news = self.forwarded.wrapping_sub(self.told);
        self.due.credit_update |= news >= CREDIT_STEP && !self.guest_gave_up.send && !self.was_reset;
    }

    /// The host's client gave up directions; the guest will be told. Data that was read before must be sent before.
    pub fn host_gives_up(&mut self, shutdown: Shutdown) {
        let before = self.host_gave_up;
        self.host_gave_up.receive |= shutdown.receive;
        self.host_gave_up.send |= shutdown.send;
        self.due.shutdown |= self.host_gave_up != before && !self.was_reset;
    }

    /// Ends it: what is still owed to the guest is a reset, nothing else.
    pub fn reset(&mut self) {
        if !self.was_reset {
            self.was_reset = true;
            self.due = Due { reset: true, ..Due::default() };
        }
    }

    /// How much the guest has room for. Zero when it takes no data at all.
    #[must_use]
    pub fn room(&self) -> u32 {
        if !self.sends() {
            return 0;
        }
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_took))
    }

    /// There is data for the guest and no room: it is asked for credit, once until it answers.
    pub fn starve(&mut self) {
        if self.sends() && !self.asked {
            self.asked = true;
            self.due.credit_request = true;
        }
    }

    /// Nothing can follow any more, and the guest knows: it was reset, or told that the host gave up both
    /// directions. What it still sends is answered by resets.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        (self.was_reset || self.host_gave_up == Shutdown::BOTH) && !self.owes()
    }

    /// Something other than data is owed to the guest.
    #[must_use]
    pub fn owes(&self) -> bool {
        let Due { request, response, credit_update, credit_request, shutdown, reset } = self.due;
        request || response || credit_update || credit_request || shutdown || reset
    }

    /// Takes the next packet, other than data, that is owed to the guest.
    pub fn next_owed(&mut self) -> Option<Packet> {
        let due = &mut self.due;
        let operation = if std::mem::take(&mut due.reset) {
            Operation::Reset
        } else if std::mem::take(&mut due.request) {
            Operation::Request
        } else if std::mem::take(&mut due.response) {
            Operation::Response
        } else if std::mem::take(&mut due.credit_request) {
            Operation::CreditRequest
        } else if std::mem::take(&mut due.shutdown) {
            Operation::Shutdown(self.host_gave_up)
        } else if std::mem::take(&mut due.credit_update) {
            Operation::CreditUpdate
        } else {
            return None;
        };
        Some(self.stamp(operation))
    }

    /// The packet that carries `bytes` of data, which must not exceed [`Connection::room`].
    pub fn data(&mut self, bytes: u32) -> Packet {
        debug_assert!(bytes <= self.room(), "more sent than the guest has room for");
        self.sent = self.sent.wrapping_add(bytes);
        self.stamp(Operation::Data(bytes))
    }

    /// Data may go to the guest, as far as there is room.
    fn sends(&self) -> bool {
        let closed = self.host_gave_up.send || self.guest_gave_up.receive || self.was_reset;
        self.phase == Phase::Established && !closed
    }

    /// Every packet carries the newest credit, so none need follow it.
    fn stamp(&mut self, operation: Operation) -> Packet {
        self.told = self.forwarded;
        self.due.credit_update = false;
        Packet { ports: self.ports, operation, buffer_bytes: BUFFER_BYTES, forwarded: self.forwarded }
    }

    /// The guest's processors may queue packets in another order than they stamped them, so an older count is stale
    /// and no lie; a count of more than was sent is a lie. Neither is believed, and neither does harm.
    fn note_credit(&mut self, packet: &Packet) {
        self.guest_buffer = packet.buffer_bytes;
        if packet.forwarded.wrapping_sub(self.guest_took) <= self.sent.wrapping_sub(self.guest_took) {
            self.guest_took = packet.forwarded;
        }
        if self.room() > 0 {
            self.asked = false;
        }
    }

    fn receive(&mut self, bytes: u32) -> Result<Reaction, Violation> {
        let held = self.received.wrapping_sub(self.forwarded);
        if self.guest_gave_up.send || bytes > BUFFER_BYTES.saturating_sub(held) {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(bytes);
        if self.host_gave_up.receive {
            // It was under way when the client left.
            self.forwarded(bytes);
            return Ok(Reaction::None);
        }
        Ok(Reaction::Forward)
    }
}

#[cfg(test)]
mod tests;
