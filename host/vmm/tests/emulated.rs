//! The emulated engine with a real guest: needs QEMU, a guest kernel in target/guest, and a C compiler for the guest's
//! init. Skipped with a reason where one is missing; `CAPSID_REQUIRE=all` turns that into a failure.

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use capsid_vmm::control::EndCause;
use capsid_vmm::engine::RunningMachine;
use capsid_vmm::network::NetworkParts;
use guest::{Guest, Options};

#[test]
fn a_guest_that_resets_ends_the_machine() {
    let Some(guest) = Guest::start(Options { command_line: "t=reboot", ..Options::default() }) else {
        return;
    };
    let (cause, console) = guest.end();
    assert_eq!(cause, EndCause::GuestReset);
    assert!(console.contains("init at"), "{console}");
}

#[test]
fn a_guest_whose_init_ends_has_panicked() {
    let Some(guest) = Guest::start(Options { command_line: "t=panic", ..Options::default() }) else { return };
    assert_eq!(guest.end().0, EndCause::GuestPanic);
}

#[test]
fn every_processor_comes_up_and_the_clock_is_the_counter() {
    let options = Options { command_line: "t=clock", vcpus: 3, ..Options::default() };
    let Some(mut guest) = Guest::start(options) else { return };
    guest.await_console("serving");
    let console = guest.console();
    assert!(console.contains("3 processors"), "{console}");
    assert!(console.contains("tsc"), "{console}");
}

#[test]
fn streams_carry_data_half_closes_and_resets() {
    let Some(mut guest) = Guest::start(Options::default()) else { return };
    guest.await_console("serving");
    let mut echo = guest.dial(guest::ECHO);
    echo.write_all(b"there and back").expect("written");
    echo.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    echo.read_to_string(&mut answer).expect("read to the end");
    assert_eq!(answer, "there and back");

    assert!(guest.try_dial(9999).is_none(), "nobody listens there");

    let mut aborted = guest.dial(guest::ABORT);
    let mut rest = Vec::new();
    let _ = aborted.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn many_connections_at_once_are_served() {
    let Some(mut guest) = Guest::start(Options { memory_mib: 256, ..Options::default() }) else { return };
    guest.await_console("serving");
    let mut streams: Vec<_> = (0..200).map(|_| guest.dial(guest::ECHO)).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&vec![index.to_le_bytes()[0]; 5000]).expect("written");
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut answer = vec![0; 5000];
        stream.read_exact(&mut answer).expect("read");
        assert!(answer.iter().all(|&byte| byte == index.to_le_bytes()[0]), "stream {index}");
    }
}

#[test]
fn a_paused_guest_stands_still_and_keeps_its_connections() {
    let Some(mut guest) = Guest::start(Options::default()) else { return };
    guest.await_console("serving");
    let mut echo = guest.dial(guest::ECHO);
    guest.machine.pause().expect("paused");
    echo.write_all(b"x").expect("written");
    echo.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    assert!(echo.read(&mut [0]).is_err(), "it answered");
    guest.machine.resume().expect("resumed");
    echo.set_read_timeout(Some(guest::PATIENCE)).expect("set");
    assert_eq!(echo.read(&mut [0]).expect("read"), 1);
}

#[test]
fn the_guest_reaches_the_host() {
    let Some(guest) = Guest::start(Options { command_line: "t=dial", ..Options::default() }) else { return };
    let mut stream = guest.accept();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).expect("read");
    assert_eq!(&hello, b"hello\n");
    drop(stream);
    assert_eq!(guest.end().0, EndCause::GuestReset);
}

#[test]
fn the_layers_are_the_first_disk_and_the_writable_one_the_second() {
    let sized = |bytes| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(bytes).expect("sized");
        file
    };
    let options = Options {
        command_line: "t=blk",
        layers: vec![sized(1 << 20), sized(2 << 20)],
        writable: Some(sized(64 << 20)),
        ..Options::default()
    };
    let Some(mut guest) = Guest::start(options) else { return };
    guest.await_console("serving");
    let console = guest.console();
    let sizes: Vec<(&str, &str)> = console
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(3).filter(|name| name.starts_with("vd")).map(|name| (*name, fields[2]))
        })
        .collect();
    assert!(sizes.contains(&("vda1", "1024")) && sizes.contains(&("vda2", "2048")), "{console}");
    assert!(sizes.contains(&("vdb", "65536")), "{console}");
}

#[test]
fn frames_cross_the_border_both_ways_and_the_disks_stay_the_first() {
    let (socket, mut outside) = UnixStream::pair().expect("a pair");
    outside.set_read_timeout(Some(guest::PATIENCE)).expect("set");
    let network = NetworkParts { socket, mac: [2, 0, 0, 0xc, 0xa, 2], gateway: None };
    let disk = tempfile::tempfile().expect("a file");
    disk.set_len(8 << 20).expect("its size");
    let options = Options {
        command_line: "t=blk t=net",
        writable: Some(disk),
        network: Some(network),
        ..Options::default()
    };
    let Some(mut guest) = Guest::start(options) else { return };
    let frame = loop {
        let frame = next_frame(&mut outside);
        // The guest's kernel looks for IPv6 neighbours by itself.
        if frame[12..14] == [8, 0] {
            break frame;
        }
    };
    assert_eq!((frame.len(), &frame[30..34]), (60, [192, 0, 2, 1].as_slice()));
    let mut answer = vec![0; 65_534];
    answer[..14].copy_from_slice(&[2, 0, 0, 0xc, 0xa, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    answer[26..30].copy_from_slice(&[192, 0, 2, 1]);
    outside.write_all(&65_534_u32.to_be_bytes()).expect("written");
    outside.write_all(&answer).expect("written");
    guest.await_console("received 65534");
    let console = guest.console();
    assert!(console.contains("02:00:00:0c:0a:02") && console.contains("vda"), "{console}");
    drop(outside);
    // The link is dead, and the machine is not.
    guest.await_console("serving");
    guest.machine.stop();
}

fn next_frame(from: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    from.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame).expect("a frame");
    frame
}

#[test]
fn stopping_ends_the_emulator_at_once() {
    let Some(mut guest) = Guest::start(Options { command_line: "t=spin", ..Options::default() }) else {
        return;
    };
    guest.await_console("serving");
    let before = Instant::now();
    guest.machine.stop();
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_emulator_does_not_outlive_a_monitor_that_is_killed() {
    let Some(mut monitor) = guest::monitor() else { return };
    let children = format!("/proc/{0}/task/{0}/children", monitor.id());
    let deadline = Instant::now() + guest::PATIENCE;
    let emulator = loop {
        let listed = std::fs::read_to_string(&children).expect("it lives");
        if let Some(child) = listed.split_whitespace().next() {
            break child.to_owned();
        }
        assert!(Instant::now() < deadline, "no emulator was started");
        std::thread::sleep(Duration::from_millis(5));
    };
    // So far that it is the emulator, rather than on the way there.
    std::thread::sleep(Duration::from_millis(300));
    monitor.kill().expect("killed");
    monitor.wait().expect("ended");
    let lives = || {
        let state = std::fs::read_to_string(format!("/proc/{emulator}/stat")).unwrap_or_default();
        state.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while lives() {
        assert!(Instant::now() < deadline, "the emulator lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_missing_emulator_is_named() {
    let options = Options { emulator: Some("/nonexistent/qemu"), ..Options::default() };
    let Some(error) = Guest::refused(options) else { return };
    assert_eq!(error, "the emulator /nonexistent/qemu is not installed");
}

#[test]
fn what_the_emulator_says_becomes_the_failure() {
    // More memory than it can be given an address for.
    let options = Options { emulator: Some("/bin/ls"), ..Options::default() };
    let Some(guest) = Guest::start(options) else { return };
    let EndCause::Failed { message } = guest.end().0 else { panic!("it did not fail") };
    assert!(message.contains("ls: "), "{message}");
}

/// Moves `CAPSID_STREAM_MIB` (default 64) in both directions and prints the rates.
#[test]
fn bulk_data_arrives_whole_in_both_directions() {
    let Some(mut guest) = Guest::start(Options { memory_mib: 256, ..Options::default() }) else { return };
    guest.await_console("serving");
    let mib = std::env::var("CAPSID_STREAM_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(64u64);
    let total = mib << 20;
    for block in [65536u32, 4096] {
        let before = Instant::now();
        let mut source = guest.dial(guest::SOURCE);
        source.write_all(format!("{total} {block}\n").as_bytes()).expect("written");
        assert_eq!(guest::check_pattern(&mut source), total);
        report("guest to host", block, total, before);
    }
    let before = Instant::now();
    let mut sink = guest.dial(guest::SINK);
    guest::write_pattern(&mut sink, total);
    sink.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    sink.read_to_string(&mut answer).expect("read");
    assert_eq!(answer.trim(), total.to_string());
    report("host to guest", 65536, total, before);
}

fn report(direction: &str, block: u32, total: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let rate = total as f64 / seconds / 1e6;
    println!("{direction}, {block} B: {:.1} MiB in {seconds:.2} s, {rate:.0} MB/s", total >> 20);
}
