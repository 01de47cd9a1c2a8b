//! Connections that became streams: attach and exec.

use std::io;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::ClientError;
use super::connection::AnyTransport;

/// Room for one read.
const READ_BYTES: usize = 128 << 10;

/// Both directions of a connection that became a stream.
#[derive(Debug)]
pub struct Upgraded {
    /// What the daemon sends.
    pub receiver: Receiver,
    /// What we send.
    pub sender: Sender,
}

/// The direction from the daemon.
#[derive(Debug)]
pub struct Receiver {
    /// What came with the answer's headers.
    early: Bytes,
    half: ReadHalf<AnyTransport>,
    buffer: BytesMut,
}

/// The direction to the daemon.
#[derive(Debug)]
pub struct Sender {
    half: WriteHalf<AnyTransport>,
}

impl Upgraded {
    pub(super) async fn from_answer(answer: hyper::Response<Incoming>) -> Result<Upgraded, ClientError> {
        let upgraded = hyper::upgrade::on(answer).await.map_err(ClientError::Broken)?;
        let parts = upgraded.downcast::<TokioIo<AnyTransport>>().map_err(|_| {
            ClientError::Stream(io::Error::new(
                io::ErrorKind::Unsupported,
                "a connection of another's making",
            ))
        })?;
        let (reading, writing) = tokio::io::split(parts.io.into_inner());
        let receiver = Receiver { early: parts.read_buf, half: reading, buffer: BytesMut::new() };
        Ok(Upgraded { receiver, sender: Sender { half: writing } })
    }
}

impl Receiver {
    /// The next bytes, as they come; none at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub async fn receive(&mut self) -> io::Result<Bytes> {
        if !self.early.is_empty() {
            return Ok(std::mem::take(&mut self.early));
        }
        self.buffer.reserve(READ_BYTES);
        self.half.read_buf(&mut self.buffer).await?;
        Ok(self.buffer.split().freeze())
    }
}

impl Sender {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.half.write_all(bytes).await?;
        self.half.flush().await
    }

    /// Ends this direction; the other goes on.
    ///
    /// # Errors
    ///
    /// Those of closing.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }
}
