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
        assert!(model.sent - model.guest_took <= u64::from(WINDOW), "more under way than the guest holds");
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
