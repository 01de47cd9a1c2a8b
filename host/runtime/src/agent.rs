//! The host's side of the agent protocol.
//!
//! Connections go through the monitor's unix socket, which takes `CONNECT <port>` and answers `OK <port>` as
//! Firecracker's does. The guest is not trusted: every length is capped, every wait has an end, and a guest that says
//! what it should not say costs its own connection.

mod connection;
mod decompress;
mod files;
mod streams;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capsid_protocol::{
    ErrorCode, ExitReport, FrameError, LimitChanges, Opening, OpeningReply, PrepareRoot, PreparedRoot,
    ProcessId, ProcessSpec, Processes, Ready, Refusal, Request, RequestId, Response, SPOKEN, StartedProcess,
    Statistics, StreamKind, TerminalSize, encode_frame,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use connection::{open, read_message};
pub use files::{Archive, FilesError, WriteOptions, go_file_mode};
pub use streams::{InputStream, OutputAcknowledger, OutputReader, OutputStream};

/// How long the agent may take for what it should do at once. Generous: an emulated guest on a busy machine is slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The connection to the guest could not be made, or failed.
    #[error("failed to talk to the agent in the guest")]
    Connection(#[source] io::Error),
    /// The guest broke the protocol.
    #[error("the agent in the guest sent something that is not of its protocol")]
    Protocol(#[source] FrameError),
    /// The connection ended before the answer came.
    #[error("the connection to the agent ended")]
    Ended,
    /// No answer within the time that is allowed.
    #[error("the agent in the guest did not answer {what} within {} s", .after.as_secs())]
    Silent {
        /// What it was asked.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The agent speaks no version that this host speaks, or refuses the connection.
    #[error("the agent in the guest refused the connection: {0}")]
    Refused(String),
    /// The agent answered something else than it was asked.
    #[error("the agent in the guest answered {what} with something else")]
    WrongAnswer {
        /// What it was asked.
        what: &'static str,
    },
    /// The agent says why it was not done.
    #[error("{}", .0.message)]
    Failed(Refusal),
}

impl AgentError {
    /// The agent's own reason, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            AgentError::Failed(refusal) => Some(refusal.code),
            _ => None,
        }
    }
}

/// Requests under way. The map is dropped when the connection ends, which tells every waiting requester.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>>;

/// A control connection. Requests may be made from several tasks at once.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    writer: tokio::sync::Mutex<(OwnedWriteHalf, u64)>,
    pending: Pending,
    reader: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads the one frame with which an agent reports that it listens.
///
/// # Errors
///
/// When it is something else.
pub async fn read_ready(connection: &mut UnixStream) -> Result<Ready, AgentError> {
    read_message(connection).await.map(|(_, ready)| ready)
}

impl Agent {
    /// Opens a control connection to the agent behind the monitor's `socket`, which must be listening.
    ///
    /// # Errors
    ///
    /// When the connection fails, is refused, or no answer comes in time.
    pub async fn connect(socket: &Path) -> Result<Agent, AgentError> {
        let opening = Opening::Control { speaks: SPOKEN };
        let (stream, reply) = within("the opening", open(socket, &opening)).await?;
        match reply {
            OpeningReply::Control(_) => {}
            OpeningReply::Refused(refusal) => return Err(AgentError::Refused(refusal.message)),
            OpeningReply::Output(_) | OpeningReply::Input | OpeningReply::Path(_) | OpeningReply::Files => {
                return Err(AgentError::WrongAnswer { what: "the opening" });
            }
        }
        let (read_half, write_half) = stream.into_split();
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader = tokio::spawn(deliver_responses(read_half, Arc::clone(&pending)));
        Ok(Agent {
            socket: socket.to_owned(),
            writer: tokio::sync::Mutex::new((write_half, 1)),
            pending,
            reader,
        })
    }

    /// Opens an output of a process, which may be started later, from byte `from` of it on. That acknowledges the
    /// bytes before. Another connection to the same output is closed.
    ///
    /// # Errors
    ///
    /// When the connection fails or is refused, e.g. since that byte cannot be had (any more, or yet).
    pub async fn open_output(
        &self,
        process: ProcessId,
        stream: StreamKind,
        from: u64,
    ) -> Result<OutputStream, AgentError> {
        self.open_output_at(process, stream, Some(from)).await
    }

    /// As [`Agent::open_output`], from the first byte that is not acknowledged: [`OutputStream::offset`] says which.
    ///
    /// # Errors
    ///
    /// As [`Agent::open_output`].
    pub async fn resume_output(
        &self,
        process: ProcessId,
        stream: StreamKind,
    ) -> Result<OutputStream, AgentError> {
        self.open_output_at(process, stream, None).await
    }

    async fn open_output_at(
        &self,
        process: ProcessId,
        stream: StreamKind,
        from: Option<u64>,
    ) -> Result<OutputStream, AgentError> {
        let what = "the opening of an output";
        let opening = Opening::Output { process, stream, from };
        match within(what, open(&self.socket, &opening)).await? {
            (connection, OpeningReply::Output(accepted)) => Ok(OutputStream::new(connection, accepted)),
            (_, OpeningReply::Refused(refusal)) => Err(AgentError::Failed(refusal)),
            _ => Err(AgentError::WrongAnswer { what }),
        }
    }

    /// Opens the stdin of a process, which may be started later, or its terminal's input. Another connection to it is
    /// closed.
    ///
    /// # Errors
    ///
    /// When the connection fails or is refused, e.g. since the process has no stdin.
    pub async fn open_input(&self, process: ProcessId) -> Result<InputStream, AgentError> {
        let what = "the opening of an input";
        match within(what, open(&self.socket, &Opening::Input { process })).await? {
            (connection, OpeningReply::Input) => Ok(InputStream::new(connection)),
            (_, OpeningReply::Refused(refusal)) => Err(AgentError::Failed(refusal)),
            _ => Err(AgentError::WrongAnswer { what }),
        }
    }

    /// Mounts the root and sets the machine up.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn prepare_root(&self, root: PrepareRoot) -> Result<PreparedRoot, AgentError> {
        match self.ask_soon("to prepare the root", &Request::PrepareRoot(Box::new(root))).await? {
            Response::Prepared(prepared) => Ok(prepared),
            _ => Err(AgentError::WrongAnswer { what: "to prepare the root" }),
        }
    }

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn start_process(&self, process: ProcessSpec) -> Result<StartedProcess, AgentError> {
        match self.ask_soon("to start a process", &Request::StartProcess(Box::new(process))).await? {
            Response::Started(started) => Ok(started),
            _ => Err(AgentError::WrongAnswer { what: "to start a process" }),
        }
    }

    /// Waits for a process's end, however long it takes.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's, which ends when the machine does.
    pub async fn wait(&self, process: ProcessId) -> Result<ExitReport, AgentError> {
        match self.ask(&Request::Wait { process }).await? {
            Response::Exited(report) => Ok(report),
            _ => Err(AgentError::WrongAnswer { what: "to wait for a process" }),
        }
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn signal(&self, process: ProcessId, signal: i32) -> Result<(), AgentError> {
        self.ask_done("to send a signal", &Request::Signal { process, signal }).await
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn resize(&self, process: ProcessId, size: TerminalSize) -> Result<(), AgentError> {
        self.ask_done("to resize a terminal", &Request::Resize { process, size }).await
    }

    /// What runs in the container.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn processes(&self) -> Result<Processes, AgentError> {
        let what = "what runs";
        match self.ask_soon(what, &Request::Processes).await? {
            Response::Processes(processes) => Ok(processes),
            _ => Err(AgentError::WrongAnswer { what }),
        }
    }

    /// What the container uses.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn statistics(&self) -> Result<Statistics, AgentError> {
        let what = "what is used";
        match self.ask_soon(what, &Request::Statistics).await? {
            Response::Statistics(statistics) => Ok(*statistics),
            _ => Err(AgentError::WrongAnswer { what }),
        }
    }

    /// Changes the container's limits.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn set_limits(&self, changes: LimitChanges) -> Result<(), AgentError> {
        self.ask_done("to change limits", &Request::SetLimits(changes)).await
    }

    /// Ends every process and writes everything to the disks.
    ///
    /// # Errors
    ///
    /// The agent's reason, or the connection's.
    pub async fn shutdown(&self) -> Result<(), AgentError> {
        self.ask_done("to shut down", &Request::Shutdown).await
    }

    async fn ask_done(&self, what: &'static str, request: &Request) -> Result<(), AgentError> {
        match self.ask_soon(what, request).await? {
            Response::Done => Ok(()),
            _ => Err(AgentError::WrongAnswer { what }),
        }
    }

    async fn ask_soon(&self, what: &'static str, request: &Request) -> Result<Response, AgentError> {
        within(what, self.ask(request)).await
    }

    async fn ask(&self, request: &Request) -> Result<Response, AgentError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut writer = self.writer.lock().await;
            let (half, next_id) = &mut *writer;
            let id = *next_id;
            *next_id += 1;
            let frame = encode_frame(RequestId(id), request).map_err(AgentError::Protocol)?;
            match &mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(pending) => pending.insert(id, sender),
                None => return Err(AgentError::Ended),
            };
            half.write_all(&frame).await.map_err(AgentError::Connection)?;
        }
        match receiver.await.map_err(|_| AgentError::Ended)? {
            Response::Failed(refusal) => Err(AgentError::Failed(refusal)),
            response => Ok(response),
        }
    }
}

/// Gives each response to its requester until the connection ends or breaks the protocol.
async fn deliver_responses(mut reader: OwnedReadHalf, pending: Pending) {
    while let Ok((id, response)) = read_message::<Response>(&mut reader).await {
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        let requester = pending.as_mut().and_then(|pending| pending.remove(&id.0));
        // An answer that nobody waits for any more is of no use to anybody.
        if let Some(requester) = requester {
            let _ = requester.send(response);
        }
    }
    *pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

async fn within<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    timeout(ANSWER_TIMEOUT, work).await.unwrap_or(Err(AgentError::Silent { what, after: ANSWER_TIMEOUT }))
}
