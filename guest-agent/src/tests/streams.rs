//! Inputs and outputs: order of opening, acknowledgements, backpressure, ends, and hosts that vanish.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use capsid_protocol::{ErrorCode, ExitStatus, OUTPUT_WINDOW_BYTES, Request, Response, StreamKind};

use super::host::{ControlLine, Host, OutputLine, shell};

const STDOUT: StreamKind = StreamKind::Stdout;
const STDERR: StreamKind = StreamKind::Stderr;

fn ready() -> (Host, ControlLine) {
    let host = Host::new();
    let control = host.control();
    (host, control)
}

/// Everything up to the end, each byte acknowledged as it comes.
fn all(mut output: OutputLine) -> String {
    String::from_utf8(output.take_rest()).expect("text")
}

/// What comes of a connection before the agent closes it.
fn rest(mut connection: UnixStream) -> String {
    let mut text = String::new();
    connection.read_to_string(&mut text).expect("the stream ends");
    text
}

#[test]
fn output_waits_for_whoever_comes_after_the_end() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "echo out; echo err >&2; exit 3");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(3));
    assert_eq!(all(host.output(1, STDOUT)), "out\n");
    assert_eq!(all(host.output(1, STDERR)), "err\n");
    // Acknowledged is gone: what is left is the end.
    let again = host.output(1, STDOUT);
    assert_eq!(again.offset(), 4);
    assert_eq!(all(again), "");
    assert_eq!(all(host.try_output(1, STDOUT, Some(4)).unwrap()), "");
    assert_eq!(host.try_output(1, STDOUT, Some(3)).unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(host.try_output(1, StreamKind::Terminal, None).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn streams_may_come_before_the_process_with_bytes() {
    let (mut host, mut control) = ready();
    let older = host.output(1, STDOUT);
    let stdout = host.output(1, STDOUT);
    assert_eq!(all(older), "");
    let mut stdin = host.input(1);
    stdin.write_all(b"early").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    let unwanted = host.output(1, StreamKind::Terminal);
    assert_eq!(host.try_output(1, STDERR, Some(1)).unwrap_err().code, ErrorCode::InvalidArgument);
    host.start(&mut control, 1, true, "cat");
    assert_eq!(all(stdout), "early");
    assert_eq!(all(unwanted), "");
}

#[test]
fn only_so_many_streams_wait_for_a_process() {
    let (host, _control) = ready();
    let kept: Vec<_> = (0..64).map(|process| host.output(process, STDOUT)).collect();
    assert_eq!(host.try_output(64, STDOUT, None).unwrap_err().code, ErrorCode::InvalidState);
    drop(kept);
    // The agent sees that they vanished when it looks.
    assert!(host.try_output(64, STDOUT, None).is_ok());
}

#[test]
fn streams_of_a_program_that_is_refused_are_closed() {
    let (mut host, mut control) = ready();
    let stdout = host.output(1, STDOUT);
    let spec = capsid_protocol::ProcessSpec { cwd: "/refuse".to_owned(), ..shell(1, "true") };
    let response = host.ask(&mut control, &Request::StartProcess(Box::new(spec)));
    assert!(matches!(response, Response::Failed(_)));
    assert_eq!(all(stdout), "");
}

#[test]
fn the_newest_connection_stands() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "read line; echo $line; read line; echo $line");
    let first = host.output(1, STDOUT);
    let second = host.output(1, STDOUT);
    assert_eq!(all(first), "");
    let older = host.input(1);
    let mut newer = host.input(1);
    assert_eq!(rest(older), "");
    newer.write_all(b"go\non\n").unwrap();
    assert_eq!(all(second), "go\non\n");
}

#[test]
fn a_host_that_comes_back_gets_what_it_has_not_acknowledged() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "echo one; read line; echo two; read line; echo three");
    let mut stdin = host.input(1);
    let mut first = host.output(1, STDOUT);
    first.await_text("one\n");
    first.acknowledge_at(2);
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    stdin.write_all(b"\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut second = host.output(1, STDOUT);
    assert_eq!(second.offset(), 2);
    second.await_text("e\ntwo\n");
    drop(second);
    let third = host.try_output(1, STDOUT, Some(6)).unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(all(third), "o\nthree\n");
}

#[test]
fn bytes_can_be_had_between_those_acknowledged_and_those_produced() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "echo 0123456789; sleep 30");
    let mut first = host.output(1, STDOUT);
    first.await_text("0123456789\n");
    first.acknowledge_at(4);
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    for from in [3, 12] {
        let refusal = host.try_output(1, STDOUT, Some(from)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert!(refusal.message.contains('4') && refusal.message.contains("11"), "{}", refusal.message);
    }
    // Asking from a byte on acknowledges those before it.
    drop(host.try_output(1, STDOUT, Some(7)).unwrap());
    let last = host.output(1, STDOUT);
    assert_eq!((last.offset(), last.accepted().produced), (7, 11));
}

#[test]
fn a_host_that_acknowledges_what_it_was_not_sent_loses_its_connection_alone() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "echo before; read line; echo after");
    let mut liar = host.output(1, STDOUT);
    liar.await_text("before\n");
    liar.acknowledge_at(8);
    assert!(liar.has_ended());
    host.input(1).write_all(b"\n").unwrap();
    assert_eq!(all(host.try_output(1, STDOUT, Some(0)).unwrap()), "before\nafter\n");
}

#[test]
fn the_end_is_told_before_everything_is_acknowledged_and_waits_for_that() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "echo all");
    let mut first = host.output(1, STDOUT);
    first.await_text("all\n");
    assert!(first.has_ended(), "a half-closed connection");
    drop(first);
    assert_eq!(all(host.try_output(1, STDOUT, Some(0)).unwrap()), "all\n");
    // Now it is over, once the server has heard of the last acknowledgement: another connection may be heard first.
    let refused = (0..1000).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        host.try_output(1, STDOUT, Some(0)).err()
    });
    assert_eq!(refused.map(|refusal| refusal.code), Some(ErrorCode::InvalidArgument));
}

#[test]
fn a_process_nobody_reads_waits_and_loses_nothing() {
    let (mut host, mut control) = ready();
    host.start(
        &mut control,
        1,
        false,
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end >&2",
    );
    let mut stderr = host.output(1, STDERR);
    assert!(stderr.is_quiet_for(Duration::from_millis(500)), "the pipe should be full");
    let text = all(host.output(1, STDOUT));
    let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
    assert!(text == expected, "{} bytes instead of {}", text.len(), expected.len());
}

#[test]
fn a_process_whose_output_is_read_and_not_acknowledged_waits_when_the_window_is_full() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "head -c 3000000 /dev/zero");
    let mut first = host.output(1, STDOUT);
    let mut read = 0;
    while let Some(count) = first.read_soon(Duration::from_millis(500)) {
        read += count;
    }
    assert_eq!(read, OUTPUT_WINDOW_BYTES);
    drop(first);
    assert_eq!(host.try_output(1, STDOUT, Some(0)).unwrap().take_rest().len(), 3_000_000);
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn many_bytes_go_through_both_ways() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = host.input(1);
    let mut stdout = host.output(1, STDOUT);
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        stdin.write_all(&sent).unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
        rest(stdin)
    });
    let received = stdout.take_rest();
    assert!(received == bytes, "{} bytes of {}", received.len(), bytes.len());
    assert_eq!(writer.join().unwrap(), "", "the agent closes an input that has ended");
}

#[test]
fn an_input_closed_at_once_ends_while_the_control_connection_stands() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let stdout = host.output(1, STDOUT);
    host.input(1).write_all(b"all\n").unwrap();
    assert_eq!(all(stdout), "all\n");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn an_input_survives_the_death_of_the_host_program() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let mut stdin = host.input(1);
    stdin.write_all(b"before\n").unwrap();
    let mut stdout = host.output(1, STDOUT);
    stdout.await_text("before\n");
    control.close();
    drop((stdin, stdout));
    std::thread::sleep(Duration::from_millis(400));
    let mut control = host.control();
    let mut stdin = host.input(1);
    stdin.write_all(b"after\n").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(host.output(1, STDOUT)), "before\nafter\n");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn an_input_that_the_process_closes_is_closed_to_the_host() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "exec <&-; sleep 30");
    assert_eq!(rest(host.input(1)), "");
}

#[test]
fn a_grandchild_that_keeps_the_output_is_not_waited_for_long() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "sleep 8 & echo main");
    let started = Instant::now();
    assert_eq!(all(host.output(1, STDOUT)), "main\n");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}
