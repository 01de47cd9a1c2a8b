//! Control connections and what is asked on them.

use std::io::Write;

use capsid_protocol::{
    ErrorCode, ExitStatus, Limit, LimitChanges, Opening, OpeningReply, ProcessId, ProcessSpec, Request,
    Response, StreamKind, TerminalSize, Version, VersionRange,
};

use super::host::{ControlLine, Host, shell};

fn code(response: Response) -> ErrorCode {
    match response {
        Response::Failed(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn ready() -> (Host, ControlLine) {
    let host = Host::new();
    let control = host.control();
    (host, control)
}

#[test]
fn a_host_that_speaks_other_versions_is_refused_with_both_ranges() {
    let host = Host::new();
    let speaks = VersionRange { oldest: Version(8), newest: Version(9) };
    let (_, reply) = host.open(&Opening::Control { speaks });
    let OpeningReply::Refused(refusal) = reply else { panic!("accepted: {reply:?}") };
    assert_eq!(refusal.code, ErrorCode::Unsupported);
    assert!(refusal.message.contains("8 to 9"), "{}", refusal.message);
}

#[test]
fn exits_and_signals_are_told_now_and_later() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "exit 42");
    host.start(&mut control, 2, false, "kill -9 $$");
    for _ in 0..2 {
        assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(42));
        assert_eq!(host.wait(&mut control, 2).status, ExitStatus::Signal(9));
    }
}

#[test]
fn every_waiter_is_answered_once() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "sleep 0.3");
    let wait = Request::Wait { process: ProcessId(1) };
    let asked: Vec<_> = (0..5).map(|_| host.send(&mut control, &wait)).collect();
    let mut answered: Vec<_> = (0..5).map(|_| control.receive().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, asked);
}

#[test]
fn what_makes_no_sense_is_refused_by_its_kind() {
    let (mut host, mut control) = ready();
    let stranger = ProcessId(9);
    let size = TerminalSize { rows: 1, columns: 1 };
    let mut refused = |request: Request| code(host.ask(&mut control, &request));
    assert_eq!(refused(Request::Wait { process: stranger }), ErrorCode::NotFound);
    assert_eq!(refused(Request::Signal { process: stranger, signal: 15 }), ErrorCode::NotFound);
    assert_eq!(refused(Request::Signal { process: stranger, signal: 65 }), ErrorCode::InvalidArgument);
    assert_eq!(refused(Request::Resize { process: stranger, size }), ErrorCode::NotFound);
    let nothing = ProcessSpec { args: Vec::new(), ..shell(1, "") };
    assert_eq!(refused(Request::StartProcess(Box::new(nothing))), ErrorCode::InvalidArgument);
}

#[test]
fn a_process_is_started_once_and_signalled_while_it_lives() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "sleep 30");
    let again = Request::StartProcess(Box::new(shell(1, "true")));
    assert_eq!(code(host.ask(&mut control, &again)), ErrorCode::Conflict);
    let terminate = Request::Signal { process: ProcessId(1), signal: 15 };
    assert_eq!(host.ask(&mut control, &terminate), Response::Done);
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Signal(15));
    assert_eq!(code(host.ask(&mut control, &terminate)), ErrorCode::InvalidState);
}

#[test]
fn a_program_that_is_refused_leaves_no_process_and_no_stream() {
    let (mut host, mut control) = ready();
    let spec = ProcessSpec { cwd: "/refuse".to_owned(), ..shell(1, "true") };
    let response = host.ask(&mut control, &Request::StartProcess(Box::new(spec)));
    assert_eq!(code(response), ErrorCode::CommandNotFound);
    assert_eq!(code(host.ask(&mut control, &Request::Wait { process: ProcessId(1) })), ErrorCode::NotFound);
}

#[test]
fn a_new_control_connection_ends_the_old_one_and_the_processes_go_on() {
    let (mut host, mut old) = ready();
    host.start(&mut old, 1, false, "sleep 30");
    host.send(&mut old, &Request::Wait { process: ProcessId(1) });
    let mut new = host.control();
    assert!(old.has_ended());
    let terminate = Request::Signal { process: ProcessId(1), signal: 15 };
    assert_eq!(host.ask(&mut new, &terminate), Response::Done);
    assert_eq!(host.wait(&mut new, 1).status, ExitStatus::Signal(15));
}

#[test]
fn nonsense_ends_its_connection_alone() {
    let (mut host, mut control) = ready();
    let mut newcomer = host.connect();
    newcomer.write_all(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut newcomer, &mut rest).unwrap();
    assert!(rest.is_empty());
    host.start(&mut control, 1, false, "true");
    control.write_raw(&[0xff; 16]);
    assert!(control.has_ended());
    let mut control = host.control();
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn a_shutdown_ends_everything_and_tells_every_waiter_first() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "sleep 30");
    let _stdout = host.output(1, StreamKind::Stdout);
    let waited = host.send(&mut control, &Request::Wait { process: ProcessId(1) });
    let shut = host.send(&mut control, &Request::Shutdown);
    let (first, response) = control.receive();
    let Response::Exited(report) = response else { panic!("not an end: {response:?}") };
    assert_eq!((first, report.status), (waited, ExitStatus::Signal(9)));
    assert_eq!(control.receive(), (shut, Response::Done));
    control.close();
}

#[test]
fn what_can_be_seen_and_changed_is_asked_of_the_sandbox() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "true");
    let Response::Processes(found) = host.ask(&mut control, &Request::Processes) else {
        panic!("no processes")
    };
    assert_eq!(found.left_out, 7);
    let Response::Statistics(found) = host.ask(&mut control, &Request::Statistics) else { panic!("none") };
    assert_eq!(found.pids, 1);
    let limit =
        |pids| Request::SetLimits(LimitChanges { pids: Some(Limit::Most(pids)), ..Default::default() });
    assert_eq!(host.ask(&mut control, &limit(9)), Response::Done);
    assert!(matches!(host.ask(&mut control, &limit(0)), Response::Failed(_)));
}
