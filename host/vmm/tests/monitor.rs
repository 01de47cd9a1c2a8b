//! The monitor as its launcher sees it: descriptors in, exit status and report out. The guests are a few
//! instructions each, so that even a KVM in software runs them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use capsid_vmm::config::{Descriptor, Engine, MachineConfig, VsockConfig};
use capsid_vmm::control::{EndCause, EndReport};

const ENTRY: u64 = 0x20_0000;
/// `mov al, 0xfe; out 0x64, al`: the keyboard controller's reset.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
/// `jmp $`.
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `lidt [rip + 7]; mov eax, [0x7ffffff0]`, and an empty table: a page fault without anyone to handle it.
const TRIPLE_FAULT: &[u8] = &[
    0x0f, 0x01, 0x1d, 0x07, 0, 0, 0, 0x8b, 0x04, 0x25, 0xf0, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Instructions that print to the serial port: `mov dx, 0x3f8`, and `mov al, …; out dx, al` for each byte.
fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code
}

/// An ELF file of one segment.
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, value: u64, bytes: usize| {
        image[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(16, 2, 2); // executable
    put(18, 62, 2); // x86-64
    put(24, ENTRY, 8);
    put(32, 64, 8); // the segment table's place, entry size and length
    put(54, 56, 2);
    put(56, 1, 2);
    put(64, 1, 4); // loadable: file offset, address, size in the file and in memory
    put(72, 4096, 8);
    put(88, ENTRY, 8);
    put(96, code.len() as u64, 8);
    put(104, code.len() as u64, 8);
    image.extend(code);
    image
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Lets a child have it, under the same number.
fn inherited(descriptor: &impl AsFd) -> Descriptor {
    let descriptor = descriptor.as_fd();
    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
    Descriptor(descriptor.as_raw_fd())
}

fn monitor(config: &[u8], kept: impl FnOnce()) -> Child {
    let config = file(config);
    let number = inherited(&config).0;
    let child = Command::new(env!("CARGO_BIN_EXE_capsid-vmm"))
        .args(["--config-fd", &number.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    kept();
    child
}

struct Running {
    child: Child,
    report: std::io::PipeReader,
    socket: std::path::PathBuf,
    lifeline: Option<UnixStream>,
    _folder: tempfile::TempDir,
}

/// Descriptors that are to be inherited are open without close-on-exec for a while, and a child of another test's
/// would take them too: one at a time.
static LAUNCHING: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Running {
    /// None, and the reason is printed, without any /dev/kvm.
    fn start(code: &[u8], vcpus: u8) -> Option<Running> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
            eprintln!("skipped: /dev/kvm cannot be opened: {error}");
            return None;
        }
        Some(Running::launch(&kernel(code), vcpus))
    }

    fn launch(kernel: &[u8], vcpus: u8) -> Running {
        let _one_at_a_time = LAUNCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let control = UnixListener::bind(&socket).unwrap();
        let listener = UnixListener::bind(folder.path().join("vsock")).unwrap();
        let (report, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let (lifeline, other_end) = UnixStream::pair().unwrap();
        let (kernel, initramfs) = (file(kernel), file(b"no archive"));
        let layer = file(&[7; 8192]);
        let config = MachineConfig {
            engine: Engine::Kvm,
            vcpus,
            memory_mib: 64,
            kernel: inherited(&kernel),
            initramfs: inherited(&initramfs),
            command_line: String::new(),
            layers: vec![inherited(&layer)],
            writable: None,
            vsock: VsockConfig { guest_cid: 3, listener: inherited(&listener), guest_dials: None },
            network: None,
            control: inherited(&control),
            lifeline: Some(inherited(&other_end)),
            report: inherited(&writer),
            console_bytes: 4096,
            emulator: None,
        };
        let child = monitor(&serde_json::to_vec(&config).unwrap(), || drop((writer, other_end)));
        Running { child, report, socket, lifeline: Some(lifeline), _folder: folder }
    }

    fn ask(&self, request: &str) -> String {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        writeln!(&stream, "{{\"request\":\"{request}\"}}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    /// The processor time that the monitor has used, in clock ticks.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn end(mut self) -> (EndReport, Output) {
        let mut text = String::new();
        self.report.read_to_string(&mut text).unwrap();
        let output = self.child.wait_with_output().unwrap();
        (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}, {output:?}")), output)
    }
}

#[test]
fn a_reset_ends_the_machine_and_the_console_is_reported() {
    let Some(running) = Running::start(&[print("hello"), RESET.to_vec()].concat(), 1) else { return };
    let (report, output) = running.end();
    assert_eq!((report.cause, report.console.as_str()), (EndCause::GuestReset, "hello"));
    assert_eq!(output.status.code(), Some(0));
    let names: Vec<&str> = report.milestones.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["process-start", "machine-built", "guest-entered"]);
    assert!(report.milestones.is_sorted_by_key(|one| one.at_us));
}

#[test]
fn a_triple_fault_is_a_reset() {
    let Some(running) = Running::start(TRIPLE_FAULT, 1) else { return };
    assert_eq!(running.end().0.cause, EndCause::GuestReset);
}

#[test]
fn a_panic_is_told_from_a_reset() {
    let code = [print("[ 0.1] Kernel panic - not syncing: Oh\n"), RESET.to_vec()].concat();
    let Some(running) = Running::start(&code, 1) else { return };
    assert_eq!(running.end().0.cause, EndCause::GuestPanic);
}

/// The second processor waits for a start that never comes.
#[test]
fn a_paused_machine_uses_no_time_until_it_is_resumed() {
    let Some(running) = Running::start(SPIN, 2) else { return };
    assert!(running.ask("state").contains("running"));
    for _ in 0..3 {
        assert_eq!(running.ask("pause"), "{\"reply\":\"done\"}\n");
        assert_eq!(running.ask("pause"), "{\"reply\":\"done\"}\n");
        assert!(running.ask("state").contains("paused"));
        let before = running.ticks();
        std::thread::sleep(Duration::from_millis(200));
        assert!(running.ticks() - before <= 2, "a paused machine ran");
        assert_eq!(running.ask("resume"), "{\"reply\":\"done\"}\n");
        let before = running.ticks();
        std::thread::sleep(Duration::from_millis(500));
        assert!(running.ticks() > before, "a resumed machine does not run");
    }
    assert_eq!(running.ask("stop"), "{\"reply\":\"done\"}\n");
    let (report, output) = running.end();
    assert_eq!((report.cause, output.status.code()), (EndCause::Stopped, Some(0)));
}

#[test]
fn stop_while_paused_stops() {
    let Some(running) = Running::start(SPIN, 1) else { return };
    assert!(running.ask("pause").contains("done"));
    assert!(running.ask("stop").contains("done"));
    assert_eq!(running.end().0.cause, EndCause::Stopped);
}

#[test]
fn the_machine_does_not_outlive_its_launcher() {
    let Some(mut running) = Running::start(SPIN, 1) else { return };
    drop(running.lifeline.take());
    assert_eq!(running.end().0.cause, EndCause::LauncherGone);
}

#[test]
fn what_cannot_be_built_is_reported() {
    let (report, output) = Running::launch(b"not a kernel", 1).end();
    let EndCause::Failed { message } = report.cause else { panic!("{report:?}") };
    assert!(message.contains("kernel") || message.contains("kvm"), "{message}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("capsid-vmm: {message}\n"));
}

#[test]
fn a_bad_configuration_is_refused_in_one_line() {
    let _one_at_a_time = LAUNCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for config in ["", "{}", "nonsense", "[1, 2"] {
        let output = monitor(config.as_bytes(), || ()).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(output.stderr.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_capsid-vmm")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("usage"));
}
