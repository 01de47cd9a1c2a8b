//! One connection to the control socket: a request line in, a reply line out, never both at once.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use crate::control::{ControlReply, ControlRequest, MAX_REQUEST_BYTES};

pub(super) struct Client {
    stream: UnixStream,
    /// What of the next requests has come.
    input: Vec<u8>,
    /// What of the reply has not gone.
    output: Vec<u8>,
}

impl Client {
    /// The stream does not block.
    pub(super) fn new(stream: UnixStream) -> Client {
        Client { stream, input: Vec::new(), output: Vec::new() }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// While a reply is on its way nothing more is read.
    pub(super) fn interest(&self) -> PollFlags {
        if self.output.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    /// Does what can be done without waiting. False: the connection is over.
    pub(super) fn serve(&mut self, mut answer: impl FnMut(ControlRequest) -> ControlReply) -> bool {
        self.advance(&mut answer).unwrap_or(false)
    }

    /// One read a turn, so that a client that never stops asking does not keep the others waiting; the next line
    /// only after the last reply has gone, so that one that does not read cannot make us hoard.
    fn advance(&mut self, answer: &mut impl FnMut(ControlRequest) -> ControlReply) -> io::Result<bool> {
        let mut may_read = true;
        loop {
            if !self.flush()? {
                return Ok(true);
            }
            if let Some(line) = self.take_line() {
                let reply = serde_json::from_slice(&line).map_or_else(
                    |error| ControlReply::Failed { message: format!("not a request: {error}") },
                    &mut *answer,
                );
                self.output = serde_json::to_vec(&reply)?;
                self.output.push(b'\n');
            } else if self.input.len() > MAX_REQUEST_BYTES {
                return Ok(false);
            } else if may_read {
                may_read = false;
                let mut chunk = [0; 1024];
                match self.stream.read(&mut chunk) {
                    Ok(0) => return Ok(false),
                    Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                    Err(error) if would_block(&error) => return Ok(true),
                    Err(error) => return Err(error),
                }
            } else {
                return Ok(true);
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        Some(self.input.drain(..=end).collect())
    }

    /// Whether everything has gone.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
