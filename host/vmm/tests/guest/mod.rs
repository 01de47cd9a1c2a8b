//! A machine of the emulated engine whose init is `init.c`.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use capsid_vmm::config::{Descriptor, Engine, MachineConfig, VsockConfig};
use capsid_vmm::control::EndCause;
use capsid_vmm::emulated::{self, EmulatedMachine};
use capsid_vmm::engine::{RunningMachine, describe};
use capsid_vmm::network::NetworkParts;
use capsid_vmm::observer::Observer;
use capsid_vmm::parts::{MachineParts, VsockParts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) const ECHO: u32 = 10;
pub(crate) const SINK: u32 = 11;
pub(crate) const SOURCE: u32 = 12;
pub(crate) const ABORT: u32 = 14;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a test wants of its machine.
pub(crate) struct Options<'a> {
    pub(crate) command_line: &'a str,
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    pub(crate) emulator: Option<&'a str>,
    pub(crate) layers: Vec<File>,
    pub(crate) writable: Option<File>,
    pub(crate) network: Option<NetworkParts>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            command_line: "",
            vcpus: 1,
            memory_mib: 128,
            emulator: None,
            layers: vec![],
            writable: None,
            network: None,
        }
    }
}

pub(crate) struct Guest {
    pub(crate) machine: EmulatedMachine,
    /// Where the guest's connections to port 1024 arrive.
    pub(crate) dialled: UnixListener,
    observer: Observer,
    folder: tempfile::TempDir,
}

impl Guest {
    /// None, and the reason is printed, if something is missing here.
    pub(crate) fn start(options: Options<'_>) -> Option<Guest> {
        Self::build(options).map(|built| built.expect("started"))
    }

    /// Why a machine could not be started.
    pub(crate) fn refused(options: Options<'_>) -> Option<String> {
        Self::build(options).map(|built| built.err().expect("refused"))
    }

    fn build(options: Options<'_>) -> Option<Result<Guest, String>> {
        let (kernel, initramfs) = artifacts()?;
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("vsock")).expect("a listener");
        let dialled = UnixListener::bind(folder.path().join("dial_1024")).expect("a listener");
        let parts = MachineParts {
            vcpus: options.vcpus,
            memory_mib: options.memory_mib,
            kernel: File::open(kernel).expect("opened"),
            initramfs: File::open(initramfs).expect("opened"),
            command_line: options.command_line.to_owned(),
            layers: options.layers,
            writable: options.writable,
            vsock: VsockParts { guest_cid: 3, listener, guest_dials: Some(folder.path().join("dial")) },
            network: options.network,
            emulator: options.emulator.map(PathBuf::from),
        };
        let observer = Observer::new(1 << 20);
        let machine = emulated::start(parts, &observer).map_err(|error| describe(error.as_ref()));
        Some(machine.map(|machine| Guest { machine, dialled, observer, folder }))
    }

    pub(crate) fn console(&self) -> String {
        self.observer.console_text()
    }

    /// Waits until the console shows this.
    pub(crate) fn await_console(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.console().contains(text) {
            if Instant::now() > deadline || self.has_ended(Duration::from_millis(5)) {
                self.machine.stop();
                panic!("no {text:?} on the console, {:?}:\n{}", self.machine.end_cause(), self.console());
            }
        }
    }

    /// A connection to a port of the guest; None if it refuses.
    pub(crate) fn try_dial(&self, port: u32) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(self.folder.path().join("vsock")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).expect("written");
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            if stream.read(&mut byte).expect("an answer") == 0 {
                return None;
            }
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"OK "));
        Some(stream)
    }

    pub(crate) fn dial(&self, port: u32) -> UnixStream {
        self.try_dial(port).unwrap_or_else(|| panic!("port {port} refused:\n{}", self.console()))
    }

    /// The guest's connection to port 1024.
    pub(crate) fn accept(&self) -> UnixStream {
        assert!(readable(&self.dialled, PATIENCE), "the guest does not dial:\n{}", self.console());
        let (stream, _) = self.dialled.accept().expect("accepted");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    fn has_ended(&self, patience: Duration) -> bool {
        readable(self.machine.ended(), patience)
    }

    /// Waits for the machine to end by itself.
    pub(crate) fn end(mut self) -> (EndCause, String) {
        assert!(self.has_ended(PATIENCE), "it does not end:\n{}", self.console());
        let cause = self.machine.end_cause();
        let console = self.console();
        (cause, console)
    }
}

/// The monitor's program, running the same guest.
pub(crate) fn monitor() -> Option<Child> {
    let (kernel, initramfs) = artifacts()?;
    let folder = tempfile::tempdir().expect("a folder");
    let mut passed: Vec<OwnedFd> = vec![
        File::open(kernel).expect("opened").into(),
        File::open(initramfs).expect("opened").into(),
        UnixListener::bind(folder.path().join("vsock")).expect("a listener").into(),
        UnixListener::bind(folder.path().join("control")).expect("a listener").into(),
        tempfile::tempfile().expect("a file").into(),
    ];
    let number = |index: usize| Descriptor(passed[index].as_raw_fd());
    let config = MachineConfig {
        engine: Engine::Emulated,
        vcpus: 1,
        memory_mib: 128,
        kernel: number(0),
        initramfs: number(1),
        command_line: String::new(),
        layers: vec![],
        writable: None,
        vsock: VsockConfig { guest_cid: 3, listener: number(2), guest_dials: None },
        network: None,
        control: number(3),
        lifeline: None,
        report: number(4),
        console_bytes: 65536,
        emulator: None,
    };
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&serde_json::to_vec(&config).expect("json")).expect("written");
    file.rewind().expect("rewound");
    passed.push(file.into());
    for descriptor in &passed {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).expect("set");
    }
    let config = passed.last().expect("the configuration").as_raw_fd().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_capsid-vmm"));
    Some(command.args(["--config-fd", &config]).spawn().expect("started"))
}

fn readable(descriptor: impl AsFd, patience: Duration) -> bool {
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    let patience = Timespec::try_from(patience).expect("short");
    poll(&mut polled, Some(&patience)).expect("polled") > 0
}

/// Byte i of a stream is i modulo 251.
pub(crate) fn write_pattern(stream: &mut UnixStream, total: u64) {
    let pattern: Vec<u8> = (0..65536 + 251).map(|index: u32| (index % 251).to_le_bytes()[0]).collect();
    let mut sent = 0;
    while sent < total {
        let count = usize::try_from((total - sent).min(65536)).expect("small");
        let phase = usize::try_from(sent % 251).expect("small");
        stream.write_all(&pattern[phase..phase + count]).expect("written");
        sent += count as u64;
    }
}

/// Reads to the end and checks every byte; how many there were.
pub(crate) fn check_pattern(stream: &mut UnixStream) -> u64 {
    let pattern: Vec<u8> = (0..262_144 + 251).map(|index: u32| (index % 251).to_le_bytes()[0]).collect();
    let mut block = vec![0; 262_144];
    let mut total = 0u64;
    loop {
        let count = stream.read(&mut block).expect("read");
        if count == 0 {
            return total;
        }
        let phase = usize::try_from(total % 251).expect("small");
        assert!(block[..count] == pattern[phase..phase + count], "other bytes near {total}");
        total += count as u64;
    }
}

/// The kernel and an initramfs with the init, built once.
fn artifacts() -> Option<(PathBuf, PathBuf)> {
    static BUILT: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    match BUILT.get_or_init(build_artifacts) {
        Ok(built) => Some(built.clone()),
        Err(reason) => {
            assert!(std::env::var_os("CAPSID_REQUIRE").is_none_or(|required| required != "all"), "{reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn build_artifacts() -> Result<(PathBuf, PathBuf), String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernel = here.join("../../target/guest/vmlinux");
    if !kernel.exists() {
        return Err("there is no guest kernel: build it first".into());
    }
    if Command::new("qemu-system-x86_64").arg("-version").output().is_err() {
        return Err("qemu-system-x86_64 is not installed".into());
    }
    let init = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-init");
    let compiled = Command::new("gcc")
        .args(["-O2", "-static", "-pthread", "-s", "-w", "-o"])
        .arg(&init)
        .arg(here.join("tests/guest/init.c"))
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        return Err("gcc does not build a static init".into());
    }
    let archive = init.with_extension("cpio");
    let program = std::fs::read(&init).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    for (name, mode, device, content) in [
        ("dev", 0o40755, (0, 0), [].as_slice()),
        ("dev/console", 0o20600, (5, 1), &[]),
        ("init", 0o100_755, (0, 0), &program),
        ("TRAILER!!!", 0, (0, 0), &[]),
    ] {
        append_entry(&mut bytes, name, mode, device, content);
    }
    std::fs::write(&archive, bytes).map_err(|error| error.to_string())?;
    Ok((kernel, archive))
}

/// One entry of a cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).
fn append_entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let size = u32::try_from(content.len()).expect("small");
    let name_size = u32::try_from(name.len() + 1).expect("small");
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
    archive.extend_from_slice(b"070701");
    archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
