//! The container's life: what stays, what goes, signals, and what a killed process leaves.

use std::thread::sleep;
use std::time::{Duration, Instant};

use capsid_tests::host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the kernel and the monitor may take to clear up after a killed process.
const CLEARED: Duration = Duration::from_secs(20);

/// The process of a running container's machine.
fn monitor_of(container: &str) -> i32 {
    host().inspect(container, "{{.State.Pid}}").parse().expect("a process's number")
}

/// The first child of a process.
fn child_of(pid: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn await_end_of(pid: i32) {
    let deadline = Instant::now() + CLEARED;
    while kill(Pid::from_raw(pid), None).is_ok() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_container_stays_without_rm_until_it_is_removed() {
    let name = "life-stays";
    host()
        .call()
        .args([
            "run",
            "--engine",
            host().engine(),
            "--name",
            name,
            "busybox",
            "sh",
            "-c",
            "echo kept >/kept; exit 6",
        ])
        .finish()
        .expect_code(6);
    let listed = host().call().args(["ps", "-a"]).finish().expect_code(0);
    let line = listed.stdout_text().lines().find(|line| line.ends_with(name)).map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("Exited (6)")), "{}", listed.story());
    let layers = std::fs::read_dir(host().state().join("containers")).unwrap();
    assert!(layers.filter_map(Result::ok).any(|entry| entry.path().join("writable.ext4").is_file()));

    host()
        .run(&["--name", name], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("is already in use by container");
    host().call().args(["rmi", "busybox"]).finish().expect_code(1).expect_stderr("conflict");
    host().call().args(["rm", name]).finish().expect_code(0).expect_stdout(&format!("{name}\n"));
    host().call().args(["rm", name]).finish().expect_code(1).expect_stderr("No such container");
}

#[test]
fn signals_reach_the_process() {
    let script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = host().shell(&[], script).start();
    running.await_output("ready");
    running.signal(Signal::SIGTERM);
    running.finish().expect_code(7).expect_stdout("caught\n");
}

#[test]
fn a_signal_during_the_boot_ends_the_run() {
    let running = host().run(&[], &["busybox", "sleep", "1000"]).start();
    sleep(Duration::from_millis(300));
    running.signal(Signal::SIGINT);
    let ended = running.finish();
    // Had the process been started by then, it is process 1 and ignores the signal: this test would hang and fail.
    ended.expect_code(130);
}

#[test]
fn kill_9_of_the_client_leaves_the_container_to_the_daemon() {
    let name = "life-killed";
    let mut running = host().run(&["--name", name], &["busybox", "sh", "-c", "echo up; sleep 1000"]).start();
    running.await_output("up");
    let monitor = monitor_of(name);
    running.signal(Signal::SIGKILL);
    let _ = running.finish();
    assert_eq!(host().inspect(name, "{{.State.Status}}"), "running");
    host().call().args(["stop", "-t", "0", name]).finish().expect_code(0).expect_stdout(&format!("{name}\n"));
    await_end_of(monitor);
    // Its name and its layers are free again, once it is removed.
    let deadline = Instant::now() + CLEARED;
    while host().call().args(["ps", "-a"]).finish().expect_code(0).stdout_text().contains(name) {
        assert!(Instant::now() < deadline, "{name} is not removed");
        sleep(Duration::from_millis(20));
    }
    host().run(&["--name", name], &["busybox", "true"]).finish().expect_code(0);
}

#[test]
fn kill_9_of_the_monitor_ends_the_run_and_says_so() {
    let name = "life-monitor";
    let mut running = host().run(&["--name", name], &["busybox", "sh", "-c", "echo up; sleep 1000"]).start();
    running.await_output("up");
    kill(Pid::from_raw(monitor_of(name)), Signal::SIGKILL).unwrap();
    running.finish().expect_code(137).expect_stderr("its monitor was killed");
}

#[test]
fn kill_9_of_the_monitor_leaves_no_emulator() {
    if host().engine() != "emulated" {
        // Nothing to see: under KVM the monitor is the machine.
        return;
    }
    let name = "life-emulator";
    let mut running = host().run(&["--name", name], &["busybox", "sh", "-c", "echo up; sleep 1000"]).start();
    running.await_output("up");
    let monitor = monitor_of(name);
    let emulator = child_of(monitor).expect("an emulator");
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    let _ = running.finish();
    await_end_of(emulator);
}
