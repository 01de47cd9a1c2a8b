//! Both ends of a served connection: a server in a thread over a sandbox without walls, and a host to talk to it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio as Standard};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use capsid_protocol::{
    ErrorCode, ExitReport, FilesWork, FrameError, Identity, Limit, LimitChanges, Opening, OpeningReply,
    OutputAccepted, PrepareRoot, ProcessId, ProcessSpec, Processes, Refusal, Request, RequestId, Response,
    SPOKEN, StartedProcess, Statistics, StreamKind, read_frame, write_frame,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::refusal;
use crate::sandbox::{Launched, Sandbox};
use crate::server::Server;
use crate::stdio::{ChildStdio, Stdio};
use crate::sys::process::Child;

/// Longer than anything here takes on a busy machine; a hang fails instead of hanging the suite.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs each program as an ordinary child; in the folder `/refuse`, it is refused.
#[derive(Debug, Default)]
struct OpenSandbox {
    pids: Vec<i32>,
}

impl Sandbox for OpenSandbox {
    fn prepare(&mut self, _: &PrepareRoot) -> Result<Child, Refusal> {
        Err(refusal(ErrorCode::Unsupported, "there is nothing to prepare"))
    }

    fn start(&mut self, spec: &ProcessSpec) -> Result<Launched, Refusal> {
        let stdio = Stdio::new(spec, None)?;
        let (stdin, stdout, stderr) = match stdio.child {
            ChildStdio::Pipes { stdin, stdout, stderr } => (Standard::from(stdin), stdout, stderr),
            ChildStdio::NoStdin { stdout, stderr } => (Standard::null(), stdout, stderr),
            ChildStdio::Terminal(_) => return Err(refusal(ErrorCode::Unsupported, "no terminals here")),
        };
        let (status, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let mut report = std::fs::File::from(report);
        let mut command = Command::new(&spec.args[0]);
        command.args(&spec.args[1..]).stdin(stdin).stdout(stdout).stderr(stderr);
        #[allow(clippy::zombie_processes, reason = "the server under test reaps it")]
        let spawned = command.spawn().expect("the tests name programs that exist");
        let pid = i32::try_from(spawned.id()).expect("a pid");
        let pidfd = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("a pidfd");
        self.pids.push(pid);
        let response = match spec.cwd.as_str() {
            "/refuse" => Response::Failed(refusal(ErrorCode::CommandNotFound, "as asked")),
            _ => Response::Started(StartedProcess { pid: 1, at_us: 0 }),
        };
        write_frame(&mut report, RequestId(0), &response).expect("room in a pipe");
        Ok(Launched { child: Some(Child { pid, pidfd }), status, streams: stdio.streams })
    }

    /// Its workers do nothing, for ever.
    fn work_on_files(&mut self, _: &FilesWork, _: BorrowedFd<'_>, _: &[u8]) -> Result<Child, Refusal> {
        let mut command = Command::new("/bin/sleep");
        #[allow(clippy::zombie_processes, reason = "the server under test reaps it")]
        let spawned = command.arg("1000").spawn().expect("a program that every machine has");
        let pid = i32::try_from(spawned.id()).expect("a pid");
        let pidfd = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("a pidfd");
        self.pids.push(pid);
        Ok(Child { pid, pidfd })
    }

    fn oom_killed(&self) -> bool {
        false
    }

    fn processes(&self) -> Result<Processes, Refusal> {
        Ok(Processes { left_out: 7, ..Processes::default() })
    }

    fn statistics(&self) -> Result<Statistics, Refusal> {
        Ok(Statistics { pids: self.pids.len() as u64, ..Statistics::default() })
    }

    fn set_limits(&mut self, changes: &LimitChanges) -> Result<(), Refusal> {
        match changes.pids {
            Some(Limit::Most(0)) => Err(refusal(ErrorCode::InvalidArgument, "as asked")),
            _ => Ok(()),
        }
    }

    fn kill(&mut self) {
        for &pid in &self.pids {
            let _ = crate::sys::process::send_signal(pid, libc::SIGKILL);
        }
    }

    fn close(&mut self) {}
}

/// A server that runs until the host is dropped.
pub(super) struct Host {
    connections: Option<Sender<OwnedFd>>,
    server: Option<JoinHandle<()>>,
    requests: u64,
}

/// A control connection.
pub(super) struct ControlLine(UnixStream);

/// A connection to an output.
#[derive(Debug)]
pub(super) struct OutputLine {
    connection: UnixStream,
    accepted: OutputAccepted,
    offset: u64,
}

impl Host {
    pub(super) fn new() -> Self {
        let (connections, arriving) = channel();
        let server = std::thread::spawn(move || serve(&arriving));
        Self { connections: Some(connections), server: Some(server), requests: 0 }
    }

    /// A connection on which nothing has been said.
    pub(super) fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        theirs.set_nonblocking(true).expect("a mode");
        self.connections.as_ref().expect("a server").send(theirs.into()).expect("the server runs");
        ours
    }

    /// A connection on which no answer has been waited for.
    pub(super) fn say(&self, opening: &Opening) -> UnixStream {
        let mut connection = self.connect();
        write_frame(&mut connection, RequestId(0), opening).expect("the server reads");
        connection
    }

    pub(super) fn open(&self, opening: &Opening) -> (UnixStream, OpeningReply) {
        let mut connection = self.say(opening);
        let (_, reply) = read_frame(&mut connection).expect("an answer");
        (connection, reply)
    }

    pub(super) fn control(&self) -> ControlLine {
        let (connection, reply) = self.open(&Opening::Control { speaks: SPOKEN });
        assert!(matches!(reply, OpeningReply::Control(_)), "{reply:?}");
        ControlLine(connection)
    }

    pub(super) fn try_output(
        &self,
        process: u32,
        stream: StreamKind,
        from: Option<u64>,
    ) -> Result<OutputLine, Refusal> {
        match self.open(&Opening::Output { process: ProcessId(process), stream, from }) {
            (connection, OpeningReply::Output(accepted)) => {
                Ok(OutputLine { connection, accepted, offset: accepted.acknowledged })
            }
            (_, OpeningReply::Refused(refusal)) => Err(refusal),
            (_, other) => panic!("an output was answered as {other:?}"),
        }
    }

    pub(super) fn output(&self, process: u32, stream: StreamKind) -> OutputLine {
        self.try_output(process, stream, None).expect("the output can be had")
    }

    pub(super) fn input(&self, process: u32) -> UnixStream {
        match self.open(&Opening::Input { process: ProcessId(process) }) {
            (connection, OpeningReply::Input) => connection,
            (_, other) => panic!("an input was answered as {other:?}"),
        }
    }

    pub(super) fn send(&mut self, control: &mut ControlLine, request: &Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        write_frame(&mut control.0, id, request).expect("the server reads");
        id
    }

    pub(super) fn ask(&mut self, control: &mut ControlLine, request: &Request) -> Response {
        let asked = self.send(control, request);
        let (answered, response) = control.receive();
        assert_eq!(answered, asked);
        response
    }

    /// Starts `sh -c script`.
    pub(super) fn start(&mut self, control: &mut ControlLine, process: u32, stdin: bool, script: &str) {
        let spec = ProcessSpec { stdin, ..shell(process, script) };
        let response = self.ask(control, &Request::StartProcess(Box::new(spec)));
        assert!(matches!(response, Response::Started(_)), "{response:?}");
    }

    pub(super) fn wait(&mut self, control: &mut ControlLine, process: u32) -> ExitReport {
        match self.ask(control, &Request::Wait { process: ProcessId(process) }) {
            Response::Exited(report) => report,
            other => panic!("not an end: {other:?}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.connections = None;
        if let Some(Err(panicked)) = self.server.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panicked);
        }
    }
}

impl ControlLine {
    pub(super) fn receive(&mut self) -> (RequestId, Response) {
        read_frame(&mut self.0).expect("an answer")
    }

    /// Whether the server has closed it.
    pub(super) fn has_ended(&mut self) -> bool {
        match read_frame::<Response>(&mut self.0) {
            Err(FrameError::Closed) => true,
            // A unix socket that is closed with something unread in it resets its peer.
            Err(FrameError::Io(error)) => error.kind() == std::io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }

    pub(super) fn write_raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server reads");
    }

    pub(super) fn close(self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl OutputLine {
    pub(super) fn accepted(&self) -> OutputAccepted {
        self.accepted
    }

    /// How many bytes came since the process started.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn acknowledge_at(&mut self, place: u64) {
        // The agent may have let go already.
        let _ = self.connection.write_all(&place.to_le_bytes());
    }

    /// Everything up to the end, each byte acknowledged as it comes.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut block = vec![0; 100_000];
        loop {
            let count = self.connection.read(&mut block).expect("the output goes on or ends");
            if count == 0 {
                return bytes;
            }
            bytes.extend_from_slice(&block[..count]);
            self.offset += count as u64;
            self.acknowledge_at(self.offset);
        }
    }

    /// Reads until the text is there.
    pub(super) fn await_text(&mut self, text: &str) {
        let mut read = vec![0; text.len()];
        self.connection.read_exact(&mut read).expect("the text comes");
        self.offset += read.len() as u64;
        assert_eq!(String::from_utf8_lossy(&read), text);
    }

    /// Reads something, if it comes soon.
    pub(super) fn read_soon(&mut self, patience: Duration) -> Option<usize> {
        self.connection.set_read_timeout(Some(patience)).expect("a timeout");
        let count = self.connection.read(&mut vec![0; 100_000]);
        self.connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        count.ok()
    }

    pub(super) fn is_quiet_for(&mut self, patience: Duration) -> bool {
        self.read_soon(patience).is_none()
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&mut self) -> bool {
        match self.connection.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub(super) fn shell(process: u32, script: &str) -> ProcessSpec {
    ProcessSpec {
        process: ProcessId(process),
        args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        identity: Identity::default(),
        terminal: None,
        stdin: false,
        rlimits: Vec::new(),
        capabilities: Vec::new(),
        no_new_privileges: false,
        init: false,
    }
}

fn serve(arriving: &Receiver<OwnedFd>) {
    use std::sync::mpsc::TryRecvError;
    let mut server = Server::new(OpenSandbox::default(), None);
    while !server.is_finished() {
        match arriving.try_recv() {
            Ok(connection) => server.admit(connection),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        server.step(Some(Duration::from_millis(2)));
    }
    server.sandbox.kill();
}
