//! The device's end of the wire: the socket with what is on its way, and whether it is any use.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::network::border::Border;
use crate::network::frames::{Filled, FrameReader, Outgoing, Sent};
use crate::network::{NetworkParts, reset};

/// It is polled edge-triggered, so what is known of the socket is kept here.
pub(super) struct Link {
    socket: UnixStream,
    border: Border,
    reader: FrameReader,
    pub(super) outgoing: Outgoing,
    readable: bool,
    writable: bool,
    up: Arc<AtomicBool>,
}

impl Link {
    pub(super) fn new(parts: NetworkParts) -> io::Result<Link> {
        parts.socket.set_nonblocking(true)?;
        Ok(Link {
            socket: parts.socket,
            border: Border::new(parts.gateway),
            reader: FrameReader::default(),
            outgoing: Outgoing::default(),
            readable: true,
            writable: true,
            up: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Shared: whether the link is up.
    pub(super) fn state(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.up)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// The other side is gone, or not to be understood any more.
    fn go_down(&mut self) {
        self.up.store(false, Ordering::SeqCst);
        self.outgoing.discard();
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    pub(super) fn note(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// The next frame for the guest. It stays until [`take`](Self::take).
    pub(super) fn next_frame(&mut self) -> Option<&[u8]> {
        loop {
            match self.reader.first() {
                Ok(Some(frame)) if self.border.lets_in(frame) => break,
                Ok(Some(_)) => self.reader.take(),
                Ok(None) if !self.is_up() || !self.readable => return None,
                Ok(None) => match self.reader.fill(&self.socket) {
                    Filled::Some => {}
                    Filled::Nothing => self.readable = false,
                    Filled::End => self.go_down(),
                },
                Err(_) => {
                    self.go_down();
                    return None;
                }
            }
        }
        self.reader.first_mut().map(|frame| {
            reset::complete(frame);
            &*frame
        })
    }

    /// Drops that frame.
    pub(super) fn take(&mut self) {
        self.reader.take();
    }

    /// Whether a frame may be begun: the one before has gone, or nothing goes anywhere any more.
    pub(super) fn is_free(&mut self) -> bool {
        if self.outgoing.is_busy() && self.writable && self.is_up() {
            self.push();
        }
        !self.outgoing.is_busy()
    }

    /// Sends the frame that was begun. It is dropped if the border or the link's state has it so.
    pub(super) fn send(&mut self) {
        let border = self.border;
        let passes = self.outgoing.frame_mut().is_some_and(|frame| border.lets_out(frame));
        if passes && self.is_up() { self.push() } else { self.outgoing.discard() }
    }

    fn push(&mut self) {
        match self.outgoing.send(&self.socket) {
            Sent::All => {}
            Sent::Full => self.writable = false,
            Sent::Closed => self.go_down(),
        }
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}
