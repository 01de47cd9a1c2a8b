//! Stdio streams: order of opening, backpressure, ends, and hosts that vanish.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use capsid_protocol::{ErrorCode, ExitStatus, Request, Response, StreamKind};

use super::host::{ControlLine, Host, shell};

const STDIN: StreamKind = StreamKind::Stdin;
const STDOUT: StreamKind = StreamKind::Stdout;
const STDERR: StreamKind = StreamKind::Stderr;

fn ready() -> (Host, ControlLine) {
    let host = Host::new();
    let control = host.control();
    (host, control)
}

fn all(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the stream ends");
    text
}

/// Reads until the text is there.
fn await_text(stream: &mut UnixStream, text: &str) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).expect("the text comes");
    assert_eq!(String::from_utf8_lossy(&read), text);
}

#[test]
fn output_waits_for_whoever_comes_after_the_end() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "echo out; echo err >&2; exit 3");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(3));
    assert_eq!(all(host.stream(1, STDOUT)), "out\n");
    assert_eq!(all(host.stream(1, STDERR)), "err\n");
    // Taken is taken: what is left is the end.
    assert_eq!(all(host.stream(1, STDOUT)), "");
}

#[test]
fn streams_may_come_before_the_process_with_bytes() {
    let (mut host, mut control) = ready();
    let stdout = host.stream(1, STDOUT);
    let mut stdin = host.stream(1, STDIN);
    stdin.write_all(b"early").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.try_stream(1, STDIN).unwrap_err().code, ErrorCode::Conflict);
    let unwanted = host.stream(1, StreamKind::Terminal);
    host.start(&mut control, 1, true, "cat");
    assert_eq!(all(stdout), "early");
    assert_eq!(all(unwanted), "");
}

#[test]
fn only_so_many_streams_wait_for_a_process() {
    let (host, _control) = ready();
    let kept: Vec<_> = (0..64).map(|process| host.stream(process, STDOUT)).collect();
    assert_eq!(host.try_stream(64, STDOUT).unwrap_err().code, ErrorCode::InvalidState);
    drop(kept);
    // The agent sees that they vanished when it looks.
    assert!(host.try_stream(64, STDOUT).is_ok());
}

#[test]
fn streams_of_a_program_that_is_refused_are_closed() {
    let (mut host, mut control) = ready();
    let stdout = host.stream(1, STDOUT);
    let spec = capsid_protocol::ProcessSpec { cwd: "/refuse".to_owned(), ..shell(1, "true") };
    let response = host.ask(&mut control, &Request::StartProcess(Box::new(spec)));
    assert!(matches!(response, Response::Failed(_)));
    assert_eq!(all(stdout), "");
}

#[test]
fn a_stream_has_one_connection_at_a_time() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "read line; echo $line");
    let first = host.stream(1, STDOUT);
    assert_eq!(host.try_stream(1, STDOUT).unwrap_err().code, ErrorCode::Conflict);
    drop(first);
    let second = host.stream(1, STDOUT);
    host.stream(1, STDIN).write_all(b"go\n").unwrap();
    assert_eq!(all(second), "go\n");
}

#[test]
fn a_host_that_comes_back_gets_what_came_meanwhile() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "echo one; read line; echo two; read line; echo three");
    let mut stdin = host.stream(1, STDIN);
    let mut first = host.stream(1, STDOUT);
    await_text(&mut first, "one\n");
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    stdin.write_all(b"\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let second = host.stream(1, STDOUT);
    stdin.write_all(b"\n").unwrap();
    assert_eq!(all(second), "two\nthree\n");
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
    let mut stderr = host.stream(1, STDERR);
    stderr.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(stderr.read(&mut [0]).is_err(), "the pipe should be full");
    let text = all(host.stream(1, STDOUT));
    let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
    assert!(text == expected, "{} bytes instead of {}", text.len(), expected.len());
}

#[test]
fn many_bytes_go_through_both_ways() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = host.stream(1, STDIN);
    let mut stdout = host.stream(1, STDOUT);
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        stdin.write_all(&sent).unwrap();
        stdin.shutdown(Shutdown::Write).unwrap();
        all(stdin)
    });
    let mut received = Vec::new();
    stdout.read_to_end(&mut received).unwrap();
    assert!(received == bytes, "{} bytes of {}", received.len(), bytes.len());
    assert_eq!(writer.join().unwrap(), "", "the agent closes an input that has ended");
}

#[test]
fn an_input_closed_at_once_ends_while_the_control_connection_stands() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let stdout = host.stream(1, STDOUT);
    host.stream(1, STDIN).write_all(b"all\n").unwrap();
    assert_eq!(all(stdout), "all\n");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn an_input_survives_the_death_of_the_host_program() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "cat");
    let mut stdin = host.stream(1, STDIN);
    stdin.write_all(b"before\n").unwrap();
    let mut stdout = host.stream(1, STDOUT);
    await_text(&mut stdout, "before\n");
    control.close();
    drop((stdin, stdout));
    std::thread::sleep(Duration::from_millis(400));
    let mut control = host.control();
    let mut stdin = host.stream(1, STDIN);
    stdin.write_all(b"after\n").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all(host.stream(1, STDOUT)), "after\n");
    assert_eq!(host.wait(&mut control, 1).status, ExitStatus::Code(0));
}

#[test]
fn an_input_that_the_process_closes_is_closed_to_the_host() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, true, "exec <&-; sleep 30");
    assert_eq!(all(host.stream(1, STDIN)), "");
}

#[test]
fn a_grandchild_that_keeps_the_output_is_not_waited_for_long() {
    let (mut host, mut control) = ready();
    host.start(&mut control, 1, false, "sleep 8 & echo main");
    let started = Instant::now();
    assert_eq!(all(host.stream(1, STDOUT)), "main\n");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}
