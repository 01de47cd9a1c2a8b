//! Starts the monitor's process and hears of its end.
//!
//! Everything that the monitor may touch is handed to it as an open descriptor; it is given no environment and no
//! path but the one that the guest's doorbell leads to. It holds one end of the lifeline: when this process is gone,
//! however it went, the monitor ends its machine, unless it was told to let go of the lifeline.
//!
//! The monitor's report is a file that is locked as long as the monitor lives, so that another process can tell whether
//! it does, and take it over.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use capsid_vmm::config::{Descriptor, NetworkConfig, VsockConfig};
use capsid_vmm::control::{ControlReply, ControlRequest, EndReport};
use capsid_vmm::{Engine, MachineConfig};
use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::artifacts::Artifacts;
use crate::engine::ChosenEngine;
use crate::network::{Card, GATEWAY_IPV4};
use crate::run_folder::RunFolder;

/// How much of a guest's console is kept.
const CONSOLE_BYTES: u32 = 64 << 10;
/// A report is a console's tail and a little more; JSON may need six bytes for one.
const MAX_REPORT_BYTES: u64 = 8 * CONSOLE_BYTES as u64 + (64 << 10);
/// How much of the monitor's own complaint is kept.
const MAX_COMPLAINT_BYTES: u64 = 4 << 10;
/// The monitor answers without waiting for the guest.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Stack of the thread that waits for a monitor's end; it reads and parses the report.
const WATCHER_STACK_BYTES: usize = 256 << 10;
/// How long a monitor may take to end its machine once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Guests are told apart by their processes, not by their addresses: each has a monitor of its own.
const GUEST_CID: u32 = 3;
/// The first descriptor of ours in the monitor's process: those before it are the standard streams.
const FIRST_DESCRIPTOR: i32 = 3;

/// Why the monitor could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A descriptor for it could not be had.
    #[error("failed to {action} {}", .path.display())]
    Descriptor {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its process did not start.
    #[error("failed to start {}", .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not answer on its control socket.
    #[error("the monitor did not answer")]
    Control(#[source] io::Error),
}

/// How a machine ended, as far as can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEnd {
    /// The monitor says how.
    Reported(EndReport),
    /// The monitor ended without a word: it was killed, or never came up. What it said on its stderr, if anything.
    Vanished {
        /// The monitor's own words.
        complaint: String,
    },
}

/// What a machine is started with.
pub struct MachineParts<'a> {
    /// Kernel, initial file system, and the monitor's program.
    pub artifacts: &'a Artifacts,
    /// The engine.
    pub engine: &'a ChosenEngine,
    /// Processors.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The image's layers, from the lowest.
    pub layers: &'a [File],
    /// The writable layer.
    pub writable: &'a File,
    /// The machine's end of the wire to its network.
    pub card: Option<Card>,
    /// Where its sockets and its report go.
    pub folder: &'a RunFolder,
}

/// A running monitor. Dropping it ends the machine, unless it is detached.
#[derive(Debug)]
pub struct Monitor {
    pid: u32,
    process: OwnedFd,
    vsock: PathBuf,
    control: PathBuf,
    ended: watch::Receiver<Option<MachineEnd>>,
    // The monitor ends its machine when this is closed, until it is detached.
    _lifeline: Option<OwnedFd>,
}

/// Collects descriptors and the numbers that they have in the monitor's process.
struct Handover {
    mappings: Vec<FdMapping>,
}

impl Handover {
    fn give(&mut self, descriptor: impl Into<OwnedFd>) -> Descriptor {
        let number =
            FIRST_DESCRIPTOR + i32::try_from(self.mappings.len()).unwrap_or(i32::MAX - FIRST_DESCRIPTOR);
        self.mappings.push(FdMapping { parent_fd: descriptor.into(), child_fd: number });
        Descriptor(number)
    }
}

impl Monitor {
    /// Starts a monitor. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Nothing runs and nothing is left but, maybe, unused socket files in the machine's folder.
    pub fn start(mut parts: MachineParts<'_>) -> Result<Monitor, MonitorError> {
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC)
                .map_err(|error| io_on("make a pipe for", &parts.artifacts.monitor)(error.into()))
        };
        let ((lifeline, lifeline_end), (config_end, config_pipe)) = (pipe()?, pipe()?);
        let report_path = parts.folder.report_path();
        let report = parts.folder.create_file("report").map_err(io_on("make", &report_path))?;
        flock(&report, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io_on("lock", &report_path)(error.into()))?;
        let complaint_path = parts.folder.join("complaint");
        let complaint = parts.folder.create_file("complaint").map_err(io_on("make", &complaint_path))?;
        let mut handover = Handover { mappings: Vec::new() };
        let config_number = handover.give(config_end);
        // The monitor's alone: the network is to end with it.
        let card = parts.card.take();
        let config = machine_config(&parts, card, &mut handover, report.into(), lifeline)?;
        let program = &parts.artifacts.monitor;
        let json = serde_json::to_vec(&config).map_err(|error| io_on("configure", program)(error.into()))?;
        // The pipe takes it whole: a pipe holds 64 KiB, and a configuration with every layer is a tenth of that.
        File::from(config_pipe).write_all(&json).map_err(io_on("configure", program))?;
        let child = spawn(program, config_number, handover, complaint)
            .map_err(|source| MonitorError::Spawn { program: program.clone(), source })?;
        let pid = child.id();
        // Should this fail, the lifeline's end ends the machine.
        let process = pidfd(pid).map_err(io_on("watch", program))?;
        let watched = process.try_clone().map_err(io_on("watch", program))?;
        let ended = watch_end(Some(child), watched, parts.folder).map_err(io_on("watch", program))?;
        Ok(Monitor {
            pid,
            process,
            vsock: parts.folder.join("vsock"),
            control: parts.folder.join("control"),
            ended,
            _lifeline: Some(lifeline_end),
        })
    }

    /// Takes over the monitor in `folder` that another process started as process `pid`. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// How the machine ended, if it has.
    pub fn adopt(folder: &RunFolder, pid: u32) -> Result<Monitor, MachineEnd> {
        // The process first, the lock then: if the lock is held now, the number was the monitor's when it was opened.
        let process = pidfd(pid).ok().filter(|_| is_alive(&folder.report_path()));
        let watched = process.and_then(|process| {
            let ended = watch_end(None, process.try_clone().ok()?, folder).ok()?;
            Some((process, ended))
        });
        match watched {
            Some((process, ended)) => Ok(Monitor {
                pid,
                process,
                vsock: folder.join("vsock"),
                control: folder.join("control"),
                ended,
                _lifeline: None,
            }),
            None => Err(read_end(folder)),
        }
    }

    /// The monitor's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The unix socket that leads to the guest's ports.
    #[must_use]
    pub fn vsock_path(&self) -> &Path {
        &self.vsock
    }

    /// Waits for the machine's end, however long it takes.
    pub fn ended(&self) -> impl Future<Output = MachineEnd> + Send + 'static + use<> {
        let mut ended = self.ended.clone();
        async move {
            let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            end.unwrap_or(MachineEnd::Vanished { complaint: String::new() })
        }
    }

    /// Ends the machine at once, as pulling the plug would, and returns when it has ended: by force if the monitor does
    /// not do it within a time.
    pub async fn end(&self) {
        let _ = self.ask(ControlRequest::Stop).await;
        if timeout(END_TIMEOUT, self.ended()).await.is_err() {
            // A process that has ended needs no signal.
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
            self.ended().await;
        }
    }

    /// Asks the monitor.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn ask(&self, request: ControlRequest) -> Result<ControlReply, MonitorError> {
        ask_control(&self.control, request).await.map_err(MonitorError::Control)
    }

    /// The newest part of the guest's console, as far as it can be had.
    pub async fn console(&self) -> String {
        if let Some(MachineEnd::Reported(report)) = self.ended.borrow().clone() {
            return report.console;
        }
        match self.ask(ControlRequest::Console).await {
            Ok(ControlReply::Console { text }) => text,
            _ => String::new(),
        }
    }
}

fn io_on<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MonitorError + 'a {
    move |source| MonitorError::Descriptor { action, path: path.to_owned(), source }
}

fn machine_config(
    parts: &MachineParts<'_>,
    card: Option<Card>,
    handover: &mut Handover,
    report: OwnedFd,
    lifeline: OwnedFd,
) -> Result<MachineConfig, MonitorError> {
    let open = |path: &Path| File::open(path).map_err(io_on("open", path));
    let listen = |path: &Path| UnixListener::bind(path).map_err(io_on("listen on", path));
    let (vsock, control) = (parts.folder.join("vsock"), parts.folder.join("control"));
    let clone = |file: &File| file.try_clone().map_err(io_on("pass on", &vsock));
    Ok(MachineConfig {
        engine: parts.engine.engine,
        vcpus: parts.vcpus,
        memory_mib: parts.memory_mib,
        kernel: handover.give(open(&parts.artifacts.kernel)?),
        initramfs: handover.give(open(&parts.artifacts.initramfs)?),
        command_line: String::new(),
        layers: parts
            .layers
            .iter()
            .map(|layer| Ok(handover.give(clone(layer)?)))
            .collect::<Result<_, _>>()?,
        writable: Some(handover.give(clone(parts.writable)?)),
        vsock: VsockConfig {
            guest_cid: GUEST_CID,
            listener: handover.give(listen(&vsock)?),
            guest_dials: Some(vsock.clone()),
        },
        network: card.map(|card| NetworkConfig {
            socket: handover.give(card.socket),
            mac: card.mac,
            gateway: Some(GATEWAY_IPV4),
        }),
        control: handover.give(listen(&control)?),
        lifeline: Some(handover.give(lifeline)),
        report: handover.give(report),
        console_bytes: CONSOLE_BYTES,
        emulator: (parts.engine.engine == Engine::Emulated).then(|| parts.engine.emulator.clone()).flatten(),
    })
}

fn spawn(program: &Path, config: Descriptor, handover: Handover, complaint: File) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--config-fd").arg(config.0.to_string());
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaint);
    command.fd_mappings(handover.mappings).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    command.spawn()
}

/// Publishes the end of a process, and reaps it if it is a child of ours: in a thread, which is the one way to wait for
/// another's child that needs neither polling nor unsafe code.
fn watch_end(
    child: Option<Child>,
    process: OwnedFd,
    folder: &RunFolder,
) -> io::Result<watch::Receiver<Option<MachineEnd>>> {
    let (sender, receiver) = watch::channel(None);
    let folder = folder.another();
    let watcher = std::thread::Builder::new().name("machine-end".to_owned()).stack_size(WATCHER_STACK_BYTES);
    watcher.spawn(move || {
        let mut polled = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut polled, None) == Err(Errno::INTR) {}
        if let Some(mut child) = child {
            let _ = child.wait();
        }
        sender.send_replace(Some(read_end(&folder)));
    })?;
    Ok(receiver)
}

pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the monitor that reports there lives: it holds the file's lock.
pub(crate) fn is_alive(report: &Path) -> bool {
    File::open(report)
        .is_ok_and(|report| flock(&report, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

/// What a monitor that has ended left.
fn read_end(folder: &RunFolder) -> MachineEnd {
    let text = read_some(&folder.report_path(), MAX_REPORT_BYTES);
    match serde_json::from_slice(&text) {
        Ok(report) => MachineEnd::Reported(report),
        Err(_) => {
            let complaint = read_some(&folder.join("complaint"), MAX_COMPLAINT_BYTES);
            MachineEnd::Vanished { complaint: String::from_utf8_lossy(&complaint).trim().to_owned() }
        }
    }
}

fn read_some(path: &Path, limit: u64) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(limit).read_to_end(&mut text);
    }
    text
}

/// Asks the monitor at `socket`, within bounds of time and size.
pub(crate) async fn ask_control(socket: &Path, request: ControlRequest) -> io::Result<ControlReply> {
    let answered = timeout(CONTROL_TIMEOUT, ask(socket, request)).await;
    answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask(socket: &Path, request: ControlRequest) -> io::Result<ControlReply> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_REPORT_BYTES)).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
