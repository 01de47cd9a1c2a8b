//! Frames on a stream socket, each behind its length. Never blocks, and holds a bounded number of bytes.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::SendFlags;

/// The longest frame, its Ethernet header included: what passt takes (`ETH_MAX_MTU`), and room for an MTU of 65520.
pub const MAX_FRAME_BYTES: usize = 65535;
/// The shortest: an Ethernet header.
pub const MIN_FRAME_BYTES: usize = 14;
/// What is before each frame.
const LENGTH_BYTES: usize = 4;
/// Read at most so much ahead of the guest. Room for a few of the longest frames, so that one call reads many.
const BUFFER_BYTES: usize = 4 * (LENGTH_BYTES + MAX_FRAME_BYTES);

/// The other side announced a frame that is longer than any: it is out of step, or means harm.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {0} bytes was announced, and none has more than {MAX_FRAME_BYTES}")]
pub struct TooLong(u32);

/// What an attempt to read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Some bytes, or there was no room for any: there may be more.
    Some,
    /// Nothing is there for now.
    Nothing,
    /// Nothing will come any more.
    End,
}

/// Takes a stream apart into frames.
#[derive(Debug)]
pub struct FrameReader {
    /// Its pages are the host's until something was read into them.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for FrameReader {
    fn default() -> FrameReader {
        FrameReader { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }
}

impl FrameReader {
    /// Reads what the socket has, as far as there is room.
    pub fn fill(&mut self, socket: impl AsFd) -> Filled {
        self.make_room();
        if self.end == self.buffer.len() {
            return Filled::Some;
        }
        match rustix::io::read(socket, &mut self.buffer[self.end..]) {
            Ok(0) => Filled::End,
            Ok(count) => {
                self.end += count;
                Filled::Some
            }
            Err(Errno::INTR) => Filled::Some,
            Err(Errno::AGAIN) => Filled::Nothing,
            Err(_) => Filled::End,
        }
    }

    /// The first frame, if all of it is there; it stays until [`take`](Self::take).
    ///
    /// # Errors
    ///
    /// The stream is of no further use.
    pub fn first(&self) -> Result<Option<&[u8]>, TooLong> {
        let held = &self.buffer[self.start..self.end];
        let Some((length, rest)) = held.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        match usize::try_from(announced) {
            Ok(length) if length <= MAX_FRAME_BYTES => Ok(rest.get(..length)),
            _ => Err(TooLong(announced)),
        }
    }

    /// The first frame, to be changed; see [`first`](Self::first).
    pub fn first_mut(&mut self) -> Option<&mut [u8]> {
        let length = self.first().ok()??.len();
        let start = self.start + LENGTH_BYTES;
        self.buffer.get_mut(start..start + length)
    }

    /// Drops the first frame.
    pub fn take(&mut self) {
        if let Ok(Some(frame)) = self.first() {
            self.start += LENGTH_BYTES + frame.len();
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.start < LENGTH_BYTES + MAX_FRAME_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// What an attempt to send has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// All of it went.
    All,
    /// The socket is full; the rest is kept.
    Full,
    /// The other side is gone, or will be.
    Closed,
}

/// One frame on its way out.
///
/// Each is sent by a call of its own. The passt of 2023 reads a frame in two goes at most, and loses its place in the
/// stream when it needs a third: the kernel keeps what one call wrote in no more than two pieces, and several frames
/// in one call would be cut at other places.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Room for the longest frame yet, with its length before it.
    bytes: Vec<u8>,
    /// Of those, so many are the frame's and its length's; none when nothing is on its way.
    end: usize,
    sent: usize,
}

impl Outgoing {
    /// A frame was begun, and some of it has to go before the next.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.sent < self.end
    }

    /// Begins a frame of `length` bytes, to be filled in before the first [`send`](Self::send): what they hold is an
    /// earlier frame's. Whatever of the frame before was not sent is lost. None if there is no frame of that length.
    pub fn begin(&mut self, length: usize) -> Option<&mut [u8]> {
        self.discard();
        let announced = u32::try_from(length).ok()?;
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            return None;
        }
        self.end = LENGTH_BYTES + length;
        if self.bytes.len() < self.end {
            self.bytes.resize(self.end, 0);
        }
        self.bytes[..LENGTH_BYTES].copy_from_slice(&announced.to_be_bytes());
        self.frame_mut()
    }

    /// The frame that was begun.
    pub fn frame_mut(&mut self) -> Option<&mut [u8]> {
        self.bytes.get_mut(LENGTH_BYTES..self.end)
    }

    /// Forgets the frame. Not to be called when some of it has gone: the stream would be out of step.
    pub fn discard(&mut self) {
        self.end = 0;
        self.sent = 0;
    }

    /// Sends the frame, or what is left of it.
    pub fn send(&mut self, socket: impl AsFd) -> Sent {
        while self.is_busy() {
            match rustix::net::send(
                &socket,
                &self.bytes[self.sent..self.end],
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Full,
                Err(_) => return Sent::Closed,
            }
        }
        self.discard();
        Sent::All
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        (ours, theirs)
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).expect("short");
        [length.to_be_bytes().as_slice(), frame].concat()
    }

    fn drain(reader: &mut FrameReader, socket: &UnixStream, frames: &mut Vec<Vec<u8>>) -> Filled {
        let filled = reader.fill(socket);
        while let Some(frame) = reader.first().expect("in step") {
            frames.push(frame.to_vec());
            reader.take();
        }
        filled
    }

    #[test]
    fn a_length_beyond_every_frame_is_refused() {
        let (ours, mut theirs) = pair();
        theirs.write_all(&65536_u32.to_be_bytes()).expect("written");
        let mut reader = FrameReader::default();
        assert_eq!(reader.fill(&ours), Filled::Some);
        assert!(reader.first().is_err());
    }

    #[test]
    fn an_end_and_a_pause_are_told_apart() {
        let (ours, theirs) = pair();
        let mut reader = FrameReader::default();
        assert_eq!(reader.fill(&ours), Filled::Nothing);
        drop(theirs);
        assert_eq!(reader.fill(&ours), Filled::End);
    }

    #[test]
    fn a_frame_that_does_not_fit_the_socket_goes_on_later() {
        let (ours, mut theirs) = pair();
        let mut outgoing = Outgoing::default();
        let mut sent = 0;
        loop {
            outgoing.begin(MAX_FRAME_BYTES).expect("a frame").fill(7);
            sent += 1;
            match outgoing.send(&ours) {
                Sent::All => {}
                other => break assert_eq!(other, Sent::Full),
            }
        }
        assert!(outgoing.is_busy());
        let reading = std::thread::spawn(move || {
            let mut all = vec![0; sent * (LENGTH_BYTES + MAX_FRAME_BYTES)];
            theirs.read_exact(&mut all).expect("all of it");
            all
        });
        while outgoing.send(&ours) != Sent::All {
            std::thread::yield_now();
        }
        let all = reading.join().expect("read");
        assert!(all.chunks(LENGTH_BYTES + MAX_FRAME_BYTES).all(|one| one == framed(&[7; MAX_FRAME_BYTES])));
    }

    #[test]
    fn a_closed_socket_is_noticed() {
        let (ours, theirs) = pair();
        drop(theirs);
        let mut outgoing = Outgoing::default();
        outgoing.begin(MIN_FRAME_BYTES).expect("a frame");
        assert_eq!(outgoing.send(&ours), Sent::Closed);
    }

    #[test]
    fn no_frame_is_shorter_than_its_header_or_longer_than_any() {
        let mut outgoing = Outgoing::default();
        for length in [0, MIN_FRAME_BYTES - 1, MAX_FRAME_BYTES + 1, usize::MAX] {
            assert!(outgoing.begin(length).is_none() && !outgoing.is_busy());
        }
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_however_the_stream_is_cut(
            lengths in prop::collection::vec(prop_oneof![0_usize..200, 0..=MAX_FRAME_BYTES], 0..12),
            cuts in prop::collection::vec(1_usize..100_000, 1..40),
        ) {
            let (ours, mut theirs) = pair();
            let frames: Vec<Vec<u8>> =
                lengths.iter().zip(0_u8..).map(|(length, mark)| vec![mark; *length]).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                theirs.write_all(now).expect("written");
                while drain(&mut reader, &ours, &mut seen) == Filled::Some {}
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(seen == frames);
        }
    }
}
