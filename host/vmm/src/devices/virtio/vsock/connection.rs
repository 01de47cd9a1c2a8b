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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORTS: Ports = Ports { host: 1, guest: 2 };

    fn packet(operation: Operation, buffer_bytes: u32, forwarded: u32) -> Packet {
        Packet { ports: PORTS, operation, buffer_bytes, forwarded }
    }

    fn established() -> Connection {
        let mut connection = Connection::accept(&packet(Operation::Request, 1000, 0));
        assert_eq!(connection.next_owed().map(|packet| packet.operation), Some(Operation::Response));
        connection
    }

    #[test]
    fn dialling_waits_for_the_response() {
        let mut connection = Connection::dial(PORTS);
        assert_eq!(connection.next_owed().map(|packet| packet.operation), Some(Operation::Request));
        assert_eq!((connection.room(), connection.owes()), (0, false));
        assert_eq!(connection.handle(&packet(Operation::Data(1), 10, 0)), Err(Violation));
        assert_eq!(connection.handle(&packet(Operation::Response, 10, 0)), Ok(Reaction::Accepted));
        assert_eq!(connection.room(), 10);
        assert_eq!(connection.handle(&packet(Operation::Response, 10, 0)), Err(Violation));
    }

    #[test]
    fn more_data_than_there_is_room_for_is_a_violation() {
        let mut connection = established();
        assert_eq!(connection.handle(&packet(Operation::Data(BUFFER_BYTES), 0, 0)), Ok(Reaction::Forward));
        assert_eq!(connection.handle(&packet(Operation::Data(1), 0, 0)), Err(Violation));
        connection.forwarded(1);
        assert_eq!(connection.handle(&packet(Operation::Data(1), 0, 0)), Ok(Reaction::Forward));
    }

    #[test]
    fn credit_is_told_in_steps_and_with_every_packet() {
        let mut connection = established();
        connection.handle(&packet(Operation::Data(CREDIT_STEP), 0, 0)).expect("within the room");
        connection.forwarded(CREDIT_STEP - 1);
        assert!(!connection.owes());
        connection.forwarded(1);
        let told = connection.next_owed().expect("an update is due");
        assert_eq!((told.operation, told.forwarded), (Operation::CreditUpdate, CREDIT_STEP));
        assert!(!connection.owes());
    }

    #[test]
    fn lies_about_credit_change_nothing() {
        let mut connection = established();
        connection.data(600);
        for lie in [601, u32::MAX, 1 << 31] {
            connection.handle(&packet(Operation::CreditUpdate, 1000, lie)).expect("no violation");
            assert_eq!(connection.room(), 400);
        }
        connection.handle(&packet(Operation::CreditUpdate, 1000, 500)).expect("no violation");
        connection.handle(&packet(Operation::CreditUpdate, 1000, 400)).expect("stale");
        assert_eq!(connection.room(), 900);
        connection.handle(&packet(Operation::CreditUpdate, 10, 500)).expect("a smaller buffer");
        assert_eq!(connection.room(), 0);
    }

    #[test]
    fn starving_asks_once_until_answered() {
        let mut connection = established();
        connection.data(1000);
        connection.starve();
        connection.starve();
        assert_eq!(connection.next_owed().map(|packet| packet.operation), Some(Operation::CreditRequest));
        connection.starve();
        assert!(!connection.owes());
        connection.handle(&packet(Operation::CreditUpdate, 1000, 1000)).expect("no violation");
        connection.data(1000);
        connection.starve();
        assert!(connection.owes());
    }

    #[test]
    fn data_after_the_guest_gave_up_sending_is_a_violation() {
        let mut connection = established();
        let shutdown = Operation::Shutdown(Shutdown { send: true, receive: false });
        assert_eq!(connection.handle(&packet(shutdown, 1000, 0)), Ok(Reaction::ShutDown));
        assert_eq!(connection.room(), 1000, "it still receives");
        assert_eq!(connection.handle(&packet(Operation::Data(1), 1000, 0)), Err(Violation));
    }

    #[test]
    fn data_for_a_client_that_left_counts_as_forwarded() {
        let mut connection = established();
        connection.host_gives_up(Shutdown { receive: true, send: false });
        assert_eq!(connection.handle(&packet(Operation::Data(BUFFER_BYTES), 1000, 0)), Ok(Reaction::None));
        let told = connection.next_owed().expect("the shutdown");
        assert_eq!(told.operation, Operation::Shutdown(Shutdown { receive: true, send: false }));
        assert_eq!(told.forwarded, BUFFER_BYTES);
    }

    #[derive(Debug, Clone)]
    enum Step {
        HostSends(u32),
        GuestSends(u32),
        GuestTakes(u32),
        HostForwards(u32),
        Raw(Operation, u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = 0u32..100_000;
        prop_oneof![
            bytes.clone().prop_map(Step::HostSends),
            bytes.clone().prop_map(Step::GuestSends),
            bytes.clone().prop_map(Step::GuestTakes),
            bytes.prop_map(Step::HostForwards),
        ]
    }

    fn hostile() -> impl Strategy<Value = Step> {
        let operation = prop_oneof![
            Just(Operation::Request),
            Just(Operation::Response),
            Just(Operation::CreditUpdate),
            Just(Operation::CreditRequest),
            any::<(bool, bool)>().prop_map(|(receive, send)| Operation::Shutdown(Shutdown { receive, send })),
            (0u32..=65536).prop_map(Operation::Data),
        ];
        prop_oneof![
            step(),
            (operation, any::<u32>(), any::<u32>())
                .prop_map(|(operation, buffer, forwarded)| Step::Raw(operation, buffer, forwarded)),
        ]
    }

    /// Counts without wrapping, so that the connection's wrapping counters are checked against something else.
    #[derive(Default)]
    struct Model {
        sent: u64,
        guest_took: u64,
        received: u64,
        forwarded: u64,
        known: u64,
    }

    #[expect(clippy::cast_possible_truncation, reason = "counters on the wire wrap")]
    fn run(steps: &[Step], start: u32) -> Model {
        const WINDOW: u32 = 200_000;
        let mut connection = established();
        // As after many gigabytes: the counters are about to wrap.
        (connection.sent, connection.guest_took) = (start, start);
        (connection.received, connection.forwarded, connection.told) = (start, start, start);
        let mut model = Model::default();
        for step in steps {
            let stamp = |model: &Model| start.wrapping_add(model.guest_took as u32);
            match *step {
                Step::HostSends(bytes) => {
                    let bytes = bytes.min(connection.room());
                    connection.data(bytes);
                    model.sent += u64::from(bytes);
                    model.known = model.forwarded;
                }
                Step::GuestSends(bytes) => {
                    // A guest that keeps to what it was told is never in violation.
                    let free = u64::from(BUFFER_BYTES) - (model.received - model.known);
                    let bytes = bytes.min(free as u32);
                    let sent = packet(Operation::Data(bytes), WINDOW, stamp(&model));
                    assert_eq!(connection.handle(&sent), Ok(Reaction::Forward));
                    model.received += u64::from(bytes);
                }
                Step::GuestTakes(bytes) => {
                    model.guest_took += u64::from(bytes).min(model.sent - model.guest_took);
                    let update = packet(Operation::CreditUpdate, WINDOW, stamp(&model));
                    connection.handle(&update).expect("no violation");
                }
                Step::HostForwards(bytes) => {
                    let bytes = u64::from(bytes).min(model.received - model.forwarded);
                    connection.forwarded(bytes as u32);
                    model.forwarded += bytes;
                    while let Some(told) = connection.next_owed() {
                        assert_eq!(told.forwarded, start.wrapping_add(model.forwarded as u32));
                        model.known = model.forwarded;
                    }
                }
                Step::Raw(operation, buffer, forwarded) => {
                    let _ = connection.handle(&packet(operation, buffer, forwarded));
                    while connection.next_owed().is_some() {}
                    return model;
                }
            }
            assert!(
                model.sent - model.guest_took <= u64::from(WINDOW),
                "more under way than the guest holds"
            );
        }
        model
    }

    proptest! {
        #[test]
        fn an_honest_guest_is_never_overrun_nor_accused(
            steps in prop::collection::vec(step(), 0..200),
            start in prop_oneof![Just(0u32), Just(u32::MAX - 50_000), any::<u32>()],
        ) {
            run(&steps, start);
        }

        #[test]
        fn a_hostile_guest_gets_no_panic(steps in prop::collection::vec(hostile(), 0..100)) {
            let mut connection = established();
            for step in &steps {
                if let Step::Raw(operation, buffer, forwarded) = step {
                    let _ = connection.handle(&packet(*operation, *buffer, *forwarded));
                }
                let room = connection.room().min(65536);
                connection.data(room);
                let held = connection.received.wrapping_sub(connection.forwarded);
                prop_assert!(held <= BUFFER_BYTES);
                connection.forwarded(held / 2);
                while connection.next_owed().is_some() {}
            }
        }
    }
}
