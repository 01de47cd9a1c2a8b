//! One connection with its unix socket: the guest's data on its way to the host's client.
//!
//! Sockets are polled edge-triggered, so what is known of them is kept here: nothing is polled that could not be
//! served, and a guest that takes nothing makes nobody spin.

use std::io::{self, Write};
use std::net::Shutdown as Direction;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use super::super::ring;
use super::connection::Connection;
use super::packet::Shutdown;
use crate::memory;

/// A connection and its socket.
pub(super) struct Stream {
    pub(super) connection: Connection,
    pub(super) socket: UnixStream,
    /// There may be something to read.
    pub(super) readable: bool,
    /// There may be room to write.
    writable: bool,
    /// The client closed the socket: what it wrote before may still be read.
    hung_up: bool,
    /// In the line of those who want to send to the guest.
    pub(super) queued: bool,
    /// The guest knows this connection no more; it only lives until the client has read what is left.
    pub(super) lingers: bool,
    /// The guest's data that the socket did not take yet.
    backlog: Backlog,
}

impl Stream {
    pub(super) fn new(connection: Connection, socket: UnixStream) -> Stream {
        Stream {
            connection,
            socket,
            readable: true,
            writable: true,
            hung_up: false,
            queued: false,
            lingers: false,
            backlog: Backlog::default(),
        }
    }

    /// There is something to say to the guest, or there may be. Without room for data, that is a question for room.
    pub(super) fn wants_to_send(&mut self) -> bool {
        let room = self.connection.room() > 0;
        if self.readable && !room {
            self.connection.starve();
        }
        !self.lingers && (self.connection.owes() || (self.readable && room))
    }

    /// Nothing is left to be done for it.
    pub(super) fn is_over(&self) -> bool {
        self.lingers && self.backlog.is_empty()
    }

    /// Tells the client that the guest accepted. The socket was never written to, so it has room.
    pub(super) fn confirm(&mut self) {
        let line = format!("OK {}\n", self.connection.ports().host);
        if !matches!(self.socket.write(line.as_bytes()), Ok(written) if written == line.len()) {
            self.client_left();
        }
    }

    /// Sends the guest's data on, straight from its memory if nothing is in front of it.
    pub(super) fn forward(&mut self, mut segments: Vec<VolatileSlice<'_>>) {
        while self.backlog.is_empty() && self.writable && !segments.is_empty() {
            match memory::write_stream(self.socket.as_fd(), &segments) {
                Ok(written) => {
                    ring::advance(&mut segments, written);
                    self.connection.forwarded(u32::try_from(written).unwrap_or(u32::MAX));
                }
                Err(error) => self.note_write_error(&error),
            }
        }
        if self.connection.host_receives() {
            self.backlog.append(&segments);
        } else {
            let dropped: usize = segments.iter().map(VolatileSlice::len).sum();
            self.connection.forwarded(u32::try_from(dropped).unwrap_or(u32::MAX));
        }
    }

    /// The socket has room: sends on what was kept.
    pub(super) fn flush(&mut self) {
        self.writable = true;
        while self.writable && !self.backlog.is_empty() {
            match (&self.socket).write(self.backlog.bytes()) {
                Ok(written) => {
                    self.backlog.consume(written);
                    self.note_forwarded(written);
                }
                Err(error) => self.note_write_error(&error),
            }
        }
        self.pass_on_shutdown();
    }

    /// Does to the socket what the guest did to the connection, once its data has gone before.
    pub(super) fn pass_on_shutdown(&mut self) {
        let gave_up = self.connection.guest_gave_up();
        if gave_up.receive {
            // The client's writes are to fail, as they would on the same machine.
            let _ = self.socket.shutdown(Direction::Read);
            self.readable = false;
            if self.hung_up {
                self.end_of_input();
            }
        }
        if gave_up.send && self.backlog.is_empty() {
            let _ = self.socket.shutdown(Direction::Write);
            if gave_up.receive && !self.lingers {
                self.connection.reset();
            }
        }
    }

    /// The client closed its end. What it wrote is still read; what the guest writes goes nowhere.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        self.readable = true;
        if self.connection.is_established() {
            self.client_left();
            if self.connection.guest_gave_up().receive {
                self.end_of_input();
            }
        } else {
            self.connection.reset();
        }
    }

    /// The client's data has ended.
    pub(super) fn end_of_input(&mut self) {
        self.readable = false;
        self.connection.host_gives_up(Shutdown { send: true, receive: self.hung_up });
    }

    /// The guest reset the connection: what it sent before is still delivered.
    pub(super) fn linger(&mut self) {
        self.lingers = true;
        if self.connection.is_established() && !self.backlog.is_empty() {
            let _ = self.socket.shutdown(Direction::Read);
        }
    }

    fn client_left(&mut self) {
        let dropped = self.backlog.bytes().len();
        self.backlog = Backlog::default();
        self.note_forwarded(dropped);
        self.connection.host_gives_up(Shutdown { send: false, receive: true });
    }

    fn note_forwarded(&mut self, bytes: usize) {
        self.connection.forwarded(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn note_write_error(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => self.writable = false,
            _ => {
                self.writable = false;
                self.client_left();
            }
        }
    }
}

/// Bytes in the order they came. The connection's credit bounds it to
/// [`BUFFER_BYTES`](super::connection::BUFFER_BYTES); the memory goes back when it is empty.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    consumed: usize,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.consumed == self.bytes.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    fn append(&mut self, segments: &[VolatileSlice<'_>]) {
        // What was consumed goes before the buffer grows, so that it never holds more than twice what is kept.
        if self.consumed > self.bytes.len() / 2 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        for segment in segments {
            let old = self.bytes.len();
            self.bytes.resize(old + segment.len(), 0);
            segment.copy_to(&mut self.bytes[old..]);
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes;
        if self.is_empty() {
            *self = Backlog::default();
        }
    }
}
