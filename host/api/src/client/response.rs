//! Answers: their headers, and bodies whole or as they come.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ClientError, JsonStream};

/// The longest reason for a refusal that is read, in bytes.
const LONGEST_REFUSAL: usize = 1 << 20;

/// An answer that accepts the request.
#[derive(Debug)]
pub struct Response {
    answer: hyper::Response<Incoming>,
    path: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

impl Response {
    /// Tells an acceptance from a refusal.
    pub(super) async fn accept(
        answer: hyper::Response<Incoming>,
        path: String,
    ) -> Result<Response, ClientError> {
        let status = answer.status();
        let mut response = Response { answer, path };
        if status.as_u16() < 400 {
            return Ok(response);
        }
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await? {
            body.extend_from_slice(&piece);
            if body.len() > LONGEST_REFUSAL {
                break;
            }
        }
        Err(ClientError::Refused { status, message: reason(&body, status) })
    }

    pub(super) fn into_answer(self) -> hyper::Response<Incoming> {
        self.answer
    }

    /// HTTP's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// A header, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body; nothing at its end.
    ///
    /// # Errors
    ///
    /// [`ClientError::Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = poll_fn(|context| Pin::new(self.answer.body_mut()).poll_frame(context)).await;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error)),
                Some(Ok(frame)) => {
                    // Trailers are of no interest.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// [`ClientError::Broken`].
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// The whole body, which is JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError::Broken`] and [`ClientError::Malformed`].
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let path = self.path.clone();
        let body = self.bytes().await?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Malformed { path, source })
    }

    /// The values of a body that is JSON after JSON, as they come.
    #[must_use]
    pub fn json_stream<T: DeserializeOwned>(self) -> JsonStream<T> {
        let path = self.path.clone();
        JsonStream::new(self, path)
    }
}

/// The daemon's words, or HTTP's when it has none.
fn reason(body: &[u8], status: StatusCode) -> String {
    if let Ok(ErrorBody { message }) = serde_json::from_slice(body) {
        return message.trim().to_owned();
    }
    let text = String::from_utf8_lossy(body).trim().to_owned();
    if text.is_empty() { status.canonical_reason().unwrap_or("unknown error").to_owned() } else { text }
}
