//! Hijacked connections: after the answer's head the connection is a raw stream in both directions.
//!
//! Clients that ask for an upgrade get 101 and the raw stream, all others a body that streams, and give no input.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use capsid_api::detach::{self, DetachKeys};
use capsid_api::frames::{FrameStream, header};
use capsid_protocol::StreamKind;
use capsid_runtime::streams::{Chunk, Input, RunStreams};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::error::{ApiError, Result};
use crate::http::{self, Reply};
use crate::server::SessionPlace;

/// Most input bytes that are read at once.
const INPUT_BYTES: usize = 32 << 10;
/// How long output goes on that was on its way when the client detached.
const DETACH_GRACE: Duration = Duration::from_millis(100);
/// How long a client may go on sending when there is nobody to send to any more.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// The raw stream of a terminal, and of old clients.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
/// Stdout and stderr in frames.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// Which streams a client is connected to, and how.
pub(crate) struct Session {
    pub(crate) streams: Arc<RunStreams>,
    /// What comes before live output.
    pub(crate) replay: Option<mpsc::Receiver<Bytes>>,
    /// Live output; `None` if it wants none.
    pub(crate) output: Option<mpsc::Receiver<Chunk>>,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Raw, since a terminal has one stream only.
    pub(crate) terminal: bool,
    /// Whether the end of the client's input is the end of the process's.
    pub(crate) close_stdin: bool,
    pub(crate) detach_keys: Vec<u8>,
    pub(crate) multiplexed_type: bool,
    /// Kept while the session is served.
    pub(crate) place: Option<SessionPlace>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process ended, or the client left.
    Over,
    /// The client gave the keys to detach.
    Detached,
}

/// Whether the client asks for the connection itself.
fn asks_for_upgrade(request: &Request<()>) -> bool {
    request.headers().contains_key(UPGRADE)
}

/// Answers, and once the answer is out, does `begin` and serves the session in a task of its own. A client that reads
/// the head by itself misses nothing so: some lose what comes together with it. What `begin` fails with is the session's
/// only output.
pub(crate) fn start(
    request: Request<()>,
    session: Session,
    begin: impl Future<Output = Result<()>> + Send + 'static,
    ended: impl FnOnce(Ended) + Send + 'static,
) -> Reply {
    let kind = if session.terminal || !session.multiplexed_type { RAW } else { MULTIPLEXED };
    if asks_for_upgrade(&request) {
        let upgraded = hyper::upgrade::on(request);
        tokio::spawn(async move {
            match upgraded.await {
                Ok(connection) => {
                    let (reader, mut writer) = tokio::io::split(TokioIo::new(connection));
                    if let Err(error) = begin.await {
                        let _ = writer.write_all(&session.complaint(&error)).await;
                        let _ = writer.shutdown().await;
                        return ended(Ended::Over);
                    }
                    ended(serve(session, reader, writer).await);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not upgraded");
                    ended(Ended::Over);
                }
            }
        });
        let mut reply = http::empty(StatusCode::SWITCHING_PROTOCOLS);
        let headers = reply.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        return reply;
    }
    let (sender, reply) = http::streamed(kind);
    tokio::spawn(async move {
        match begin.await {
            Ok(()) => stream_body(session, sender).await,
            Err(error) => drop(sender.send(session.complaint(&error)).await),
        }
        ended(Ended::Over);
    });
    reply
}

async fn stream_body(mut session: Session, sender: mpsc::Sender<Bytes>) {
    if let Some(mut replay) = session.replay.take() {
        while let Some(bytes) = replay.recv().await {
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    }
    let Some(mut output) = session.output.take() else { return };
    loop {
        tokio::select! {
            chunk = output.recv() => {
                let Some(chunk) = chunk else { return };
                if let Some(bytes) = session.encode(chunk)
                    && sender.send(bytes).await.is_err()
                {
                    return;
                }
            }
            () = sender.closed() => return,
        }
    }
}

impl Session {
    /// Why there is nothing to be attached to, as output.
    fn complaint(&self, error: &ApiError) -> Bytes {
        let text = format!("{}\r\n", error.message);
        if self.terminal { text.into() } else { frame(FrameStream::Stdout, text.as_bytes()) }
    }

    /// As it goes over the wire, if the client wants that stream.
    fn encode(&self, chunk: Chunk) -> Option<Bytes> {
        let (stream, wanted) = match chunk.stream {
            StreamKind::Stderr => (FrameStream::Stderr, self.stderr),
            _ => (FrameStream::Stdout, self.stdout),
        };
        if !wanted {
            return None;
        }
        Some(if self.terminal { chunk.bytes } else { frame(stream, &chunk.bytes) })
    }
}

/// One frame of the multiplexed stream. Chunks are far below the four gigabytes that a frame can hold.
pub(crate) fn frame(stream: FrameStream, bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(bytes.len() + capsid_api::frames::HEADER_BYTES);
    framed.extend_from_slice(&header(stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    framed.extend_from_slice(bytes);
    framed.freeze()
}

pub(crate) async fn serve(
    mut session: Session,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> Ended {
    let input = read_input(
        &mut reader,
        session.stdin.then(|| session.streams.input()),
        session.close_stdin,
        std::mem::take(&mut session.detach_keys),
    );
    let hears = session.output.is_some();
    let ended = {
        let output = write_output(&mut session, &mut writer);
        tokio::pin!(output, input);
        let mut input_over = false;
        let mut output_over = false;
        loop {
            tokio::select! {
                () = &mut output, if !output_over => {
                    if hears {
                        break Ended::Over;
                    }
                    output_over = true;
                }
                over = &mut input, if !input_over => match over {
                    InputOver::Detached => {
                        // What was typed before the keys has its echo on the way.
                        if !output_over {
                            let _ = tokio::time::timeout(DETACH_GRACE, &mut output).await;
                        }
                        break Ended::Detached;
                    }
                    InputOver::Failed => break Ended::Over,
                    // Output goes on, if the client wants any.
                    InputOver::Ended => input_over = true,
                },
            }
            if input_over && output_over {
                break Ended::Over;
            }
        }
    };
    let _ = writer.shutdown().await;
    // Closed with something unread, the connection would be reset under a client that still sends.
    let _ = tokio::time::timeout(LEAVE_PATIENCE, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
    drop(session.place);
    ended
}

async fn write_output(session: &mut Session, writer: &mut (impl AsyncWrite + Unpin)) {
    if let Some(mut replay) = session.replay.take() {
        while let Some(bytes) = replay.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
    let Some(mut output) = session.output.take() else { return };
    while let Some(chunk) = output.recv().await {
        let Some(bytes) = session.encode(chunk) else { continue };
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Why a client's input is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputOver {
    /// The client closed its side, or the process takes no more.
    Ended,
    /// The client gave the keys to detach.
    Detached,
    /// The connection failed.
    Failed,
}

/// Moves a client's input to the process; what a client sends who attached no input is dropped. A client that closes
/// its side only half still gets output.
async fn read_input(
    mut reader: impl AsyncRead + Unpin,
    input: Option<mpsc::Sender<Input>>,
    close_stdin: bool,
    detach_keys: Vec<u8>,
) -> InputOver {
    let mut buffer = vec![0; INPUT_BYTES];
    let mut keys = DetachKeys::new(detach_keys);
    loop {
        let count = match reader.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return InputOver::Failed,
        };
        let Some(input) = &input else { continue };
        let (bytes, detached) = keys.pass(&buffer[..count]);
        if !bytes.is_empty() && input.send(Input::Bytes(bytes.into())).await.is_err() {
            return InputOver::Ended;
        }
        if detached {
            return InputOver::Detached;
        }
    }
    if let Some(input) = input.filter(|_| close_stdin) {
        let _ = input.send(Input::End).await;
    }
    InputOver::Ended
}

/// Reads the keys that a client asks for.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>> {
    let text = text.unwrap_or(detach::DEFAULT);
    detach::parse(text).ok_or_else(|| ApiError::invalid(format!("Invalid detach keys ({text}) provided")))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::timeout;

    use super::*;

    fn session(streams: &Arc<RunStreams>) -> Session {
        Session {
            streams: Arc::clone(streams),
            replay: None,
            output: None,
            stdin: false,
            stdout: true,
            stderr: true,
            terminal: true,
            close_stdin: false,
            detach_keys: Vec::new(),
            multiplexed_type: true,
            place: None,
        }
    }

    /// Serves a session to a client who sends `typed` and closes its side; what it got, and how it ended.
    async fn served(session: Session, typed: &[u8]) -> (Vec<u8>, Ended) {
        let (mut client, server) = duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        client.write_all(typed).await.unwrap();
        client.shutdown().await.unwrap();
        let ended =
            timeout(std::time::Duration::from_secs(10), serve(session, reader, writer)).await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        (got, ended)
    }

    #[tokio::test]
    async fn a_replay_without_live_output_is_sent_and_is_all() {
        let (sender, replay) = mpsc::channel(1);
        sender.send(Bytes::from_static(b"old")).await.unwrap();
        drop(sender);
        let streams = Arc::new(RunStreams::default());
        let session = Session { replay: Some(replay), ..session(&streams) };
        assert_eq!(served(session, b"").await, (b"old".to_vec(), Ended::Over));
    }

    #[tokio::test]
    async fn a_session_of_input_alone_ends_with_it() {
        let streams = Arc::new(RunStreams::default());
        let typing = Session { stdin: true, ..session(&streams) };
        assert_eq!(served(typing, b"typed").await, (Vec::new(), Ended::Over));
    }

    #[tokio::test]
    async fn the_keys_end_a_session_whose_process_goes_on() {
        let streams = Arc::new(RunStreams::default());
        let output = Some(streams.subscribe());
        let typing = Session { stdin: true, output, detach_keys: vec![16, 17], ..session(&streams) };
        assert_eq!(served(typing, b"a\x10\x11").await.1, Ended::Detached);
    }

    #[tokio::test]
    async fn the_keys_end_a_session_that_has_no_output_or_no_more() {
        let streams = Arc::new(RunStreams::default());
        let typing = Session { stdin: true, detach_keys: vec![16, 17], ..session(&streams) };
        assert_eq!(served(typing, b"a\x10\x11").await.1, Ended::Detached);
    }
}
