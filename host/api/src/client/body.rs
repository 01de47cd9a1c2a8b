//! Bodies of requests: none, bytes that can be sent again, or a stream that cannot.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces of a streamed body that wait to be sent; more make the producer wait.
const WAITING_PIECES: usize = 4;

/// What a request sends.
#[derive(Debug)]
pub enum RequestBody {
    /// These bytes, or none.
    Whole(Bytes),
    /// What a [`BodySender`] gives.
    Stream(mpsc::Receiver<Bytes>),
}

/// The producer's end of a streamed body. Dropping it ends the body.
#[derive(Debug, Clone)]
pub struct BodySender(mpsc::Sender<Bytes>);

impl BodySender {
    /// Sends a piece, and waits while too many do. False: the request is over and wants no more.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.0.send(piece).await.is_ok()
    }

    /// As [`Self::send`], from a thread of its own.
    #[must_use]
    pub fn blocking_send(&self, piece: Bytes) -> bool {
        self.0.blocking_send(piece).is_ok()
    }
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub fn empty() -> RequestBody {
        RequestBody::Whole(Bytes::new())
    }

    /// A body that comes piece by piece.
    #[must_use]
    pub fn stream() -> (BodySender, RequestBody) {
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        (BodySender(sender), RequestBody::Stream(receiver))
    }

    /// The same body once more, unless it is a stream.
    pub(super) fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            RequestBody::Stream(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            RequestBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Stream(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, RequestBody::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Stream(_) => SizeHint::default(),
        }
    }
}
