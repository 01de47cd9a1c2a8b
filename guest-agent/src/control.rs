//! Connections of the host that carry frames: the control connection, and any connection until it has said what
//! it is.
//!
//! Nothing here blocks or grows without bound: a host that does not read its answers is not read from, and one that
//! exceeds [`MAX_UNREAD_BYTES`] all the same is dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_protocol::{
    FrameAssembler, FrameError, Opening, OpeningReply, Request, RequestId, Response, write_frame,
};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// More answers than this wait for nobody.
const MAX_UNREAD_BYTES: usize = 8 << 20;
/// No requests are read while more than this is unread.
const BACKPRESSURE_BYTES: usize = 64 << 10;
/// The longest opening. Paths of 4 KiB are in some, each byte of which JSON may need six to write.
const MAX_OPENING_BYTES: usize = 32 << 10;
/// How much is read at once of a connection that has not said what it is.
const OPENING_READ_BYTES: usize = 4096;

/// Who is to be answered: a request, on one of the control connections that there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    /// Counts control connections.
    pub(crate) connection: u64,
    /// The request.
    pub(crate) request: RequestId,
}

/// A connection that has not said what it is.
#[derive(Debug)]
pub(crate) struct Newcomer {
    connection: OwnedFd,
    assembler: FrameAssembler,
}

/// What reading from a newcomer came to.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Not all is there yet.
    NotYet,
    /// It has said what it is; bytes after the opening came along.
    Opened(Opening, Vec<u8>),
    /// Closed, or nonsense.
    Gone,
}

impl Newcomer {
    /// A connection that does not block.
    pub(crate) fn new(connection: OwnedFd) -> Self {
        Self { connection, assembler: FrameAssembler::with_limit(MAX_OPENING_BYTES) }
    }

    /// To poll for input.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Reads once.
    pub(crate) fn read(&mut self) -> Arrival {
        let mut bytes = [0; OPENING_READ_BYTES];
        match rustix::io::read(&self.connection, &mut bytes) {
            Ok(0) => return Arrival::Gone,
            Ok(count) => self.assembler.push(&bytes[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return Arrival::NotYet,
            Err(_) => return Arrival::Gone,
        }
        match self.assembler.next_frame() {
            Ok(Some((_, opening))) => {
                Arrival::Opened(opening, std::mem::take(&mut self.assembler).into_rest())
            }
            Ok(None) => Arrival::NotYet,
            Err(_) => Arrival::Gone,
        }
    }

    /// Answers the opening, and hands the connection on if the answer could be sent.
    pub(crate) fn reply(self, reply: &OpeningReply) -> Option<OwnedFd> {
        let mut frame = Vec::new();
        write_frame(&mut frame, RequestId(0), reply).ok()?;
        let sent = rustix::net::send(&self.connection, &frame, SendFlags::NOSIGNAL).ok()?;
        (sent == frame.len()).then_some(self.connection)
    }
}

/// The control connection.
#[derive(Debug)]
pub(crate) struct Control {
    connection: OwnedFd,
    number: u64,
    assembler: FrameAssembler,
    unread: Vec<u8>,
    sent: usize,
}

/// The connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended;

impl Control {
    /// A connection that does not block, the count of control connections, and the bytes that were read from it.
    pub(crate) fn new(connection: OwnedFd, number: u64, early: &[u8]) -> Self {
        let mut assembler = FrameAssembler::default();
        assembler.push(early);
        Self { connection, number, assembler, unread: Vec::new(), sent: 0 }
    }

    /// Which control connection this is.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// To poll.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// What to poll for.
    pub(crate) fn interests(&self) -> PollFlags {
        let unread = self.unread.len() - self.sent;
        let read = if unread < BACKPRESSURE_BYTES { PollFlags::IN } else { PollFlags::empty() };
        let write = if unread > 0 { PollFlags::OUT } else { PollFlags::empty() };
        read | write
    }

    /// Reads once into the assembler.
    ///
    /// # Errors
    ///
    /// The host closed it, or it failed.
    pub(crate) fn read(&mut self, scratch: &mut [u8]) -> Result<(), Ended> {
        match rustix::io::read(&self.connection, &mut *scratch) {
            Ok(0) => Err(Ended),
            Ok(count) => {
                self.assembler.push(&scratch[..count]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(_) => Err(Ended),
        }
    }

    /// The next whole request that has arrived.
    ///
    /// # Errors
    ///
    /// Bytes that are no request: what follows them cannot be trusted either.
    pub(crate) fn next_request(&mut self) -> Result<Option<(Asker, Request)>, FrameError> {
        let frame = self.assembler.next_frame()?;
        Ok(frame.map(|(request, body)| (Asker { connection: self.number, request }, body)))
    }

    /// Queues an answer, and sends what can be sent.
    ///
    /// # Errors
    ///
    /// The host is gone or reads nothing.
    pub(crate) fn answer(&mut self, request: RequestId, response: &Response) -> Result<(), Ended> {
        write_frame(&mut self.unread, request, response).map_err(|_| Ended)?;
        if self.unread.len() - self.sent > MAX_UNREAD_BYTES {
            return Err(Ended);
        }
        self.flush()
    }

    /// Sends what can be sent without waiting.
    ///
    /// # Errors
    ///
    /// The host is gone.
    pub(crate) fn flush(&mut self) -> Result<(), Ended> {
        while self.sent < self.unread.len() {
            match rustix::net::send(&self.connection, &self.unread[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Ended),
            }
        }
        self.unread.clear();
        self.sent = 0;
        Ok(())
    }
}
