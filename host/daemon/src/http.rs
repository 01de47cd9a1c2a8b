//! Bodies and responses.

use std::convert::Infallible;

use bytes::Bytes;
use capsid_api::models::ErrorResponse;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result};

/// The longest JSON body that is read, in bytes. Docker's own clients stay far below; Linux lets a process start with
/// 2 MiB of arguments and environment at most.
pub(crate) const MAX_JSON_BYTES: usize = 4 << 20;
/// Pieces of a streamed body that wait for a slow client.
const STREAM_PIECES: usize = 16;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(crate) type Reply = Response<Body>;

/// A request's body as JSON; an absent body is `null`, as Docker has it for bodies that are optional.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T> {
    let bytes = read_bytes(body).await?;
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
    let mut reply = Response::new(Empty::new().boxed_unsync());
    *reply.status_mut() = status;
    reply
}

pub(crate) fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// A body that is written while it is sent, in pieces; its end is the sender's.
pub(crate) fn streamed(kind: &'static str) -> (mpsc::Sender<Bytes>, Reply) {
    let (sender, receiver) = mpsc::channel(STREAM_PIECES);
    (sender, with_type(StatusCode::OK, kind, StreamBody::new(Pieces(receiver)).boxed_unsync()))
}

struct Pieces(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = std::result::Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Docker's error shape.
pub(crate) fn error(error: &ApiError) -> Reply {
    let body = ErrorResponse { message: error.message.clone() };
    let text = serde_json::to_vec(&body).unwrap_or_default();
    json_text(error.status, text.into())
}
