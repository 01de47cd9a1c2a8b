//! A container's output on its way to this process's standard streams.
//!
//! A task receives and takes frames apart; a thread writes, since this process's streams may block for as long as
//! somebody does not read them, and signals must go on meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use capsid_api::client::{Receiver, Response};
use capsid_api::frames::{Decoder, FrameStream};
use tokio::sync::{mpsc, oneshot};

use super::{Wiring, timings};

/// Pieces that wait to be written.
const WAITING_PIECES: usize = 16;

/// Output under way.
#[derive(Debug)]
pub(crate) struct Output {
    done: oneshot::Receiver<io::Result<()>>,
    /// Microseconds of the host's clock; 0 is never.
    first_byte: Arc<AtomicU64>,
}

/// A piece, and whether it is of stderr.
type Piece = (bool, Bytes);

/// Where pieces are given to be written.
#[derive(Debug)]
struct Pieces {
    sender: mpsc::Sender<Piece>,
    decoder: Option<Decoder>,
    stdout: bool,
    stderr: bool,
    first_byte: Arc<AtomicU64>,
}

impl Output {
    /// Starts to copy a stream.
    pub(super) fn start(mut from: Receiver, wiring: &Wiring) -> io::Result<Output> {
        let (mut pieces, output, broken) = Output::prepare(wiring)?;
        tokio::spawn(async move {
            let outcome = loop {
                match from.receive().await {
                    Ok(bytes) if bytes.is_empty() => break Ok(()),
                    // A machine or a daemon that is gone: what it sent before is written.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break Ok(()),
                    Err(error) => break Err(error),
                    Ok(bytes) => match pieces.give(bytes).await {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error),
                    },
                }
            };
            if let Err(error) = outcome {
                let _ = broken.send(error);
            }
        });
        Ok(output)
    }

    /// Copies an answer's body to its end.
    pub(crate) async fn of_body(mut body: Response, wiring: &Wiring) -> io::Result<()> {
        let (mut pieces, mut output, _broken) = Output::prepare(wiring)?;
        loop {
            tokio::select! {
                chunk = body.chunk() => match chunk {
                    Ok(Some(bytes)) => {
                        if !pieces.give(bytes).await? {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Err(io::Error::other(error)),
                },
                // Nobody reads any more, and nothing may come that would tell.
                ended = output.end() => return ended,
            }
        }
        drop(pieces);
        output.end().await
    }

    fn prepare(wiring: &Wiring) -> io::Result<(Pieces, Output, oneshot::Sender<io::Error>)> {
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        let (broken, broken_connection) = oneshot::channel();
        let done = write_in_thread(receiver, broken_connection)?;
        let first_byte = Arc::new(AtomicU64::new(0));
        let pieces = Pieces {
            sender,
            decoder: (!wiring.terminal).then(Decoder::default),
            stdout: wiring.stdout,
            stderr: wiring.stderr,
            first_byte: Arc::clone(&first_byte),
        };
        Ok((pieces, Output { done, first_byte }, broken))
    }

    /// Waits until everything is written, or cannot be. Dropping the future loses nothing.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        match (&mut self.done).await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn first_byte_us(&self) -> Option<u64> {
        let at = self.first_byte.load(Ordering::Relaxed);
        (at != 0).then_some(at)
    }
}

impl Pieces {
    /// Gives bytes of the stream to be written. False: nobody wants more.
    async fn give(&mut self, mut bytes: Bytes) -> io::Result<bool> {
        if self.first_byte.load(Ordering::Relaxed) == 0 {
            self.first_byte.store(timings::now_us(), Ordering::Relaxed);
        }
        let Some(decoder) = &mut self.decoder else {
            return Ok(self.sender.send((false, bytes)).await.is_ok());
        };
        loop {
            let frame = decoder.next(&mut bytes);
            let frame = frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some((stream, piece)) = frame else { return Ok(true) };
            let (wanted, is_stderr) = match stream {
                FrameStream::Stdin | FrameStream::Stdout => (self.stdout, false),
                FrameStream::Stderr => (self.stderr, true),
                FrameStream::System => (true, true),
            };
            if wanted && self.sender.send((is_stderr, piece)).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// Writes until the sender is gone, or until nobody reads.
fn write_in_thread(
    mut pieces: mpsc::Receiver<Piece>,
    mut broken: oneshot::Receiver<io::Error>,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let mut stdout = File::from(rustix::stdio::stdout().as_fd().try_clone_to_owned()?);
    let mut stderr = File::from(rustix::stdio::stderr().as_fd().try_clone_to_owned()?);
    let (sender, done) = oneshot::channel();
    thread::Builder::new().name("output".into()).stack_size(64 << 10).spawn(move || {
        let mut write = || -> io::Result<()> {
            while let Some((is_stderr, piece)) = pieces.blocking_recv() {
                let to = if is_stderr { &mut stderr } else { &mut stdout };
                to.write_all(&piece)?;
            }
            broken.try_recv().map_or(Ok(()), Err)
        };
        let result = write();
        let _ = sender.send(result);
    })?;
    Ok(done)
}
