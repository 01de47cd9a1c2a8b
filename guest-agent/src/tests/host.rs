//! Both ends of a served connection: a server in a thread over a sandbox without walls, and a host to talk to it.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio as Standard};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use capsid_protocol::{
    ErrorCode, ExitReport, FrameError, Identity, Opening, OpeningReply, PrepareRoot, ProcessId, ProcessSpec,
    Refusal, Request, RequestId, Response, SPOKEN, StartedProcess, StreamKind, read_frame, write_frame,
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

    fn oom_killed(&self) -> bool {
        false
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

    pub(super) fn open(&self, opening: &Opening) -> (UnixStream, OpeningReply) {
        let mut connection = self.connect();
        write_frame(&mut connection, RequestId(0), opening).expect("the server reads");
        let (_, reply) = read_frame(&mut connection).expect("an answer");
        (connection, reply)
    }

    pub(super) fn control(&self) -> ControlLine {
        let (connection, reply) = self.open(&Opening::Control { speaks: SPOKEN });
        assert!(matches!(reply, OpeningReply::Control(_)), "{reply:?}");
        ControlLine(connection)
    }

    pub(super) fn try_stream(&self, process: u32, stream: StreamKind) -> Result<UnixStream, Refusal> {
        match self.open(&Opening::Stream { process: ProcessId(process), stream }) {
            (connection, OpeningReply::Stream) => Ok(connection),
            (_, OpeningReply::Refused(refusal)) => Err(refusal),
            (_, OpeningReply::Control(_)) => panic!("a stream was answered as control"),
        }
    }

    pub(super) fn stream(&self, process: u32, stream: StreamKind) -> UnixStream {
        self.try_stream(process, stream).expect("the stream is free")
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
        std::io::Write::write_all(&mut self.0, bytes).expect("the server reads");
    }

    pub(super) fn close(self) {
        let _ = self.0.shutdown(Shutdown::Both);
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
