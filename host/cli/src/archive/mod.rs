//! Archives between this machine's files and a container's: packing what is the user's, and unpacking what a stranger
//! packed.

pub(crate) mod pack;
pub(crate) mod unpack;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use capsid_api::client::BodySender;
use tokio::sync::mpsc;

/// A request's body as something that can be written to. Counts what went through.
#[derive(Debug)]
pub(crate) struct BodyWriter {
    sender: BodySender,
    count: Arc<AtomicU64>,
}

impl BodyWriter {
    pub(crate) fn new(sender: BodySender, count: Arc<AtomicU64>) -> BodyWriter {
        BodyWriter { sender, count }
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sender.blocking_send(Bytes::copy_from_slice(bytes)) {
            self.count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes.len())
        } else {
            // The daemon has heard enough, and says why in its answer.
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer's body as something that can be read, in a thread of its own.
#[derive(Debug)]
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    pub(crate) fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> BodyReader {
        BodyReader { pieces, current: Bytes::new() }
    }
}

impl io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        let piece = self.current.split_to(count);
        buffer.iter_mut().zip(piece.iter()).for_each(|(to, from)| *to = *from);
        Ok(count)
    }
}
