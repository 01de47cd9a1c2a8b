//! Bodies and responses.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use capsid_api::models::ErrorResponse;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::error::{ApiError, Result};

/// The longest JSON body that is read, in bytes. Docker's own clients stay far below; Linux lets a process start with
/// 2 MiB of arguments and environment at most.
pub(crate) const MAX_JSON_BYTES: usize = 4 << 20;
/// How much of a body that nobody wants is read, in bytes.
const MAX_DRAINED_BYTES: usize = 1 << 20;
/// For how long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a client may neither send nor take anything of an archive.
pub(crate) const CLIENT_PATIENCE: Duration = Duration::from_secs(300);
/// Pieces of a streamed body that wait for a slow client.
const STREAM_PIECES: usize = 16;

/// A body that fails breaks the connection off: a client can tell that what it has is not the whole.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Reply = Response<Body>;

/// A request's body, until somebody takes it.
#[derive(Clone)]
pub(crate) struct RequestBody(Arc<Mutex<Option<Incoming>>>);

impl RequestBody {
    pub(crate) fn new(body: Incoming) -> RequestBody {
        RequestBody(Arc::new(Mutex::new(Some(body))))
    }

    /// The body; `None` if it was taken.
    pub(crate) fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads and forgets a body that nobody took, if it is short: a client that is still sending when its connection
    /// is closed may never read why it was refused.
    pub(crate) async fn drain(&self) {
        if let Some(body) = self.take() {
            let short = Limited::new(body, MAX_DRAINED_BYTES).collect();
            let _ = tokio::time::timeout(DRAIN_PATIENCE, short).await;
        }
    }
}

/// A request's body as JSON; an absent body is `null`, as Docker has it for bodies that are optional.
pub(crate) async fn read_json<T: DeserializeOwned>(body: &RequestBody) -> Result<T> {
    let bytes = match body.take() {
        Some(body) => read_bytes(body).await?,
        None => Bytes::new(),
    };
    let text: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) { b"null" } else { &bytes };
    let mut documents = serde_json::Deserializer::from_slice(text);
    let parsed = T::deserialize(&mut documents);
    let parsed = parsed.map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    documents.end().map_err(|_| ApiError::invalid("unexpected content after JSON"))?;
    Ok(parsed)
}

async fn read_bytes(body: Incoming) -> Result<Bytes> {
    match Limited::new(body, MAX_JSON_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("request body is larger than {MAX_JSON_BYTES} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(error) => Err(ApiError::invalid(format!("failed to read the request's body: {error}"))),
    }
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Result<Reply> {
    let mut text = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    text.push(b'\n');
    Ok(json_text(status, text.into()))
}

/// JSON that is written already.
pub(crate) fn json_text(status: StatusCode, text: Bytes) -> Reply {
    with_type(status, "application/json", full(text))
}

pub(crate) fn ok(value: &impl Serialize) -> Result<Reply> {
    json(StatusCode::OK, value)
}

pub(crate) fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Reply {
    with_type(status, kind, full(text.into()))
}

pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

pub(crate) fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is written while it is sent, in pieces; its end is the sender's.
pub(crate) fn streamed(kind: &'static str) -> (mpsc::Sender<Bytes>, Reply) {
    let (sender, receiver) = mpsc::channel(STREAM_PIECES);
    (sender, with_type(StatusCode::OK, kind, StreamBody::new(Pieces(receiver)).boxed_unsync()))
}

/// As [`streamed`], for what may turn out not to be whole.
pub(crate) fn streamed_archive() -> (mpsc::Sender<io::Result<Bytes>>, Reply) {
    let (sender, receiver) = mpsc::channel(STREAM_PIECES);
    let body = StreamBody::new(Pieces(receiver)).boxed_unsync();
    (sender, with_type(StatusCode::OK, "application/x-tar", body))
}

struct Pieces<T>(mpsc::Receiver<T>);

impl<T: IntoPiece> futures_core::Stream for Pieces<T> {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.into_piece().map(Frame::data)))
    }
}

trait IntoPiece {
    fn into_piece(self) -> io::Result<Bytes>;
}

impl IntoPiece for Bytes {
    fn into_piece(self) -> io::Result<Bytes> {
        Ok(self)
    }
}

impl IntoPiece for io::Result<Bytes> {
    fn into_piece(self) -> io::Result<Bytes> {
        self
    }
}

/// A request's body as something to read from, whose client may not be silent for too long.
pub(crate) struct BodyReader {
    body: Option<Incoming>,
    piece: Bytes,
    patience: Duration,
    silence: Pin<Box<Sleep>>,
    is_waited_for: bool,
}

impl BodyReader {
    pub(crate) fn new(body: &RequestBody, patience: Duration) -> BodyReader {
        let silence = Box::pin(tokio::time::sleep(patience));
        BodyReader { body: body.take(), piece: Bytes::new(), patience, silence, is_waited_for: false }
    }
}

impl BodyReader {
    /// As [`RequestBody::drain`], for what is left.
    pub(crate) async fn drain(&mut self) {
        let mut rest = self.take(MAX_DRAINED_BYTES as u64);
        let _ =
            tokio::time::timeout(DRAIN_PATIENCE, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = self.get_mut();
        while reader.piece.is_empty() {
            let Some(body) = &mut reader.body else { return Poll::Ready(Ok(())) };
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    reader.is_waited_for = false;
                    // Trailers say nothing here.
                    reader.piece = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if !std::mem::replace(&mut reader.is_waited_for, true) {
                        reader.silence.as_mut().reset(Instant::now() + reader.patience);
                    }
                    ready!(reader.silence.as_mut().poll(context));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        let count = reader.piece.len().min(buffer.remaining());
        buffer.put_slice(&reader.piece.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// Docker's error shape.
pub(crate) fn error(error: &ApiError) -> Reply {
    let body = ErrorResponse { message: error.message.clone() };
    let text = serde_json::to_vec(&body).unwrap_or_default();
    json_text(error.status, text.into())
}
