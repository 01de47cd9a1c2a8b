//! The host's side of a process's outputs and input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use capsid_protocol::OutputAccepted;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A process's output, from one byte of it on (see [`capsid_protocol::Opening::Output`]).
///
/// The agent keeps what is not acknowledged, and holds the process once that is too much: whoever reads must
/// acknowledge what it has put where it is safe, several times in every [`capsid_protocol::OUTPUT_WINDOW_BYTES`], and
/// all of it after the end, or the agent keeps the output for whoever asks next.
#[derive(Debug)]
pub struct OutputStream {
    reader: OutputReader,
    acknowledger: OutputAcknowledger,
    produced: u64,
}

/// The half of an output from which its bytes come.
#[derive(Debug)]
pub struct OutputReader {
    half: OwnedReadHalf,
    offset: u64,
}

/// The half of an output by which the agent is told what it need not keep. Dropping it, like dropping the other half,
/// does not acknowledge anything, and ends the connection.
#[derive(Debug)]
pub struct OutputAcknowledger {
    half: OwnedWriteHalf,
}

impl OutputStream {
    pub(super) fn new(connection: UnixStream, accepted: OutputAccepted) -> OutputStream {
        let (reader, writer) = connection.into_split();
        OutputStream {
            reader: OutputReader { half: reader, offset: accepted.acknowledged },
            acknowledger: OutputAcknowledger { half: writer },
            produced: accepted.produced,
        }
    }

    /// Which byte of the output, counted since the process's start, comes next.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// How many bytes the agent had read of the process when the output was opened.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// As [`OutputReader::read`].
    ///
    /// # Errors
    ///
    /// As [`OutputReader::read`].
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).await
    }

    /// As [`OutputAcknowledger::acknowledge`].
    ///
    /// # Errors
    ///
    /// As [`OutputAcknowledger::acknowledge`].
    pub async fn acknowledge(&mut self, offset: u64) -> io::Result<()> {
        self.acknowledger.acknowledge(offset).await
    }

    /// Both halves, for tasks of their own.
    #[must_use]
    pub fn into_split(self) -> (OutputReader, OutputAcknowledger) {
        (self.reader, self.acknowledger)
    }
}

impl OutputReader {
    /// Which byte of the output, counted since the process's start, comes next.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads what has come, at least a byte; 0 at the end. May be cancelled, and nothing is lost.
    ///
    /// An end is the output's own, or that of the machine, or another connection has taken this one's place: whether
    /// the process has ended tells them apart.
    ///
    /// # Errors
    ///
    /// When the connection fails otherwise.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.half.read(buffer).await {
            // The agent let go before it had read everything that was acknowledged, or the machine is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            read => read,
        };
        self.offset += read.as_ref().map_or(0, |&count| count as u64);
        read
    }
}

impl OutputAcknowledger {
    /// Tells the agent that every byte before `offset` is safe: it will not be had again. Not more than was read, or
    /// the agent ends the connection. Not to be cancelled: half an acknowledgement spoils the next one.
    ///
    /// # Errors
    ///
    /// When the connection fails. That the agent has let go of the output is none: all of it was acknowledged.
    pub async fn acknowledge(&mut self, offset: u64) -> io::Result<()> {
        match self.half.write_all(&offset.to_le_bytes()).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            written => written,
        }
    }
}

/// A process's stdin, or the input of its terminal. Writing waits while the process reads nothing.
///
/// Dropping it without [`InputStream::finish`] ends a process's stdin a moment later all the same if this program and
/// its control connection live on.
#[derive(Debug)]
pub struct InputStream {
    connection: UnixStream,
}

impl InputStream {
    pub(super) fn new(connection: UnixStream) -> InputStream {
        InputStream { connection }
    }

    /// Ends the process's stdin, and waits until everything before has reached it: however long, if it does not read.
    /// A terminal has no end: nothing happens to it.
    ///
    /// # Errors
    ///
    /// When the connection fails, though not because the process reads no more.
    pub async fn finish(mut self) -> io::Result<()> {
        match self.connection.shutdown().await {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
            ended => ended?,
        }
        self.closed().await;
        Ok(())
    }

    /// Waits until the agent closes the connection, since nothing will be read of it: the process has closed its stdin
    /// or ended, another connection has taken this one's place, or the machine has ended.
    pub async fn closed(&mut self) {
        // The agent sends nothing; if it does, that means nothing.
        let mut ignored = [0; 64];
        while let Ok(1..) = self.connection.read(&mut ignored).await {}
    }
}

impl AsyncWrite for InputStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    /// Half-closes the connection, which ends the process's stdin.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
