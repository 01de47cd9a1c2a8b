//! Between the emulator's network card and the network: copies frames both ways, those that the border lets pass.
//!
//! One thread, which ends when either side closes its socket; it then closes the other's. Each way holds one frame on
//! its way out and what was read ahead of it, and reads no more until that frame has gone: a side that stalls fills its
//! own socket and slows nothing but what is for it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use super::border::Border;
use super::frames::{Filled, FrameReader, Outgoing, Sent};
use super::reset;

/// Most frames one way before the other has its turn.
const MAX_TURN: usize = 64;

/// Starts the thread. `guest` leads to the guest's card, `outside` to the network.
///
/// # Errors
///
/// There is no thread to be had, or a socket cannot be made non-blocking.
pub fn start(guest: UnixStream, outside: UnixStream, border: Border) -> io::Result<JoinHandle<()>> {
    guest.set_nonblocking(true)?;
    outside.set_nonblocking(true)?;
    std::thread::Builder::new().name("network".into()).spawn(move || {
        let mut leaving = Lane::default();
        let mut entering = Lane::default();
        while let Ok(events) = wait(&guest, &outside, &leaving, &entering) {
            let (guest_ready, outside_ready) = events;
            let left = leaving.advance(
                (&guest, guest_ready),
                (&outside, outside_ready),
                |frame| border.lets_out(frame),
                |_| {},
            );
            let entered = entering.advance(
                (&outside, outside_ready),
                (&guest, guest_ready),
                |frame| border.lets_in(frame),
                reset::complete,
            );
            if left.is_err() || entered.is_err() {
                return;
            }
        }
    })
}

/// Waits until a lane can go on.
fn wait(
    guest: &UnixStream,
    outside: &UnixStream,
    leaving: &Lane,
    entering: &Lane,
) -> io::Result<(PollFlags, PollFlags)> {
    let mut polled = [
        PollFd::new(guest, leaving.wants_from() | entering.wants_to()),
        PollFd::new(outside, entering.wants_from() | leaving.wants_to()),
    ];
    let timeout = if leaving.more || entering.more {
        Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })
    } else {
        None
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok((polled[0].revents(), polled[1].revents())),
        Err(error) => Err(error.into()),
    }
}

/// A side is gone, or out of step.
struct Over;

/// One way.
#[derive(Default)]
struct Lane {
    reader: FrameReader,
    outgoing: Outgoing,
    /// Its turn ended with frames left.
    more: bool,
}

impl Lane {
    fn wants_from(&self) -> PollFlags {
        if self.outgoing.is_busy() { PollFlags::empty() } else { PollFlags::IN }
    }

    fn wants_to(&self) -> PollFlags {
        if self.outgoing.is_busy() { PollFlags::OUT } else { PollFlags::empty() }
    }

    /// One turn.
    fn advance(
        &mut self,
        (from, from_ready): (&UnixStream, PollFlags),
        (to, to_ready): (&UnixStream, PollFlags),
        may_pass: impl Fn(&[u8]) -> bool,
        mend: impl Fn(&mut [u8]),
    ) -> Result<(), Over> {
        let closed = PollFlags::HUP | PollFlags::ERR;
        if to_ready.intersects(closed) {
            return Err(Over);
        }
        if self.outgoing.is_busy() && !self.send(to)? {
            return Ok(());
        }
        if from_ready.intersects(PollFlags::IN | closed) && self.reader.fill(from.as_fd()) == Filled::End {
            return Err(Over);
        }
        self.more = false;
        for _ in 0..MAX_TURN {
            let Some(frame) = self.reader.first().map_err(|_| Over)? else { return Ok(()) };
            let passes = may_pass(frame);
            if passes && let Some(room) = self.outgoing.begin(frame.len()) {
                room.copy_from_slice(frame);
                mend(room);
            }
            self.reader.take();
            if !self.send(to)? {
                return Ok(());
            }
        }
        self.more = true;
        Ok(())
    }

    /// Whether nothing is left to send.
    fn send(&mut self, to: &UnixStream) -> Result<bool, Over> {
        match self.outgoing.send(to.as_fd()) {
            Sent::All => Ok(true),
            Sent::Full => Ok(false),
            Sent::Closed => Err(Over),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use super::*;
    use crate::network::frames::MAX_FRAME_BYTES;

    struct Ends {
        guest: UnixStream,
        outside: UnixStream,
        relay: JoinHandle<()>,
    }

    fn ends() -> Ends {
        let (guest, inner) = UnixStream::pair().expect("a pair");
        let (outside, outer) = UnixStream::pair().expect("a pair");
        for end in [&guest, &outside] {
            end.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        }
        Ends { guest, outside, relay: start(inner, outer, Border::default()).expect("started") }
    }

    /// A frame to an IPv4 address, marked in its last byte.
    fn frame(destination: [u8; 4], mark: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        frame[12] = 8;
        frame[30..34].copy_from_slice(&destination);
        frame[26] = 1;
        frame[length - 1] = mark;
        frame
    }

    fn send(mut to: &UnixStream, frame: &[u8]) {
        to.write_all(&u32::try_from(frame.len()).expect("short").to_be_bytes()).expect("written");
        to.write_all(frame).expect("written");
    }

    fn receive(mut from: &UnixStream) -> Vec<u8> {
        let mut length = [0; 4];
        from.read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut frame).expect("a frame");
        frame
    }

    #[test]
    fn what_may_pass_passes_both_ways_and_the_rest_is_gone() {
        let ends = ends();
        send(&ends.guest, &frame([127, 0, 0, 1], 1, 60));
        send(&ends.guest, &frame([192, 0, 2, 1], 2, 60));
        assert_eq!(receive(&ends.outside).last(), Some(&2));
        send(&ends.outside, &frame([10, 0, 2, 2], 3, MAX_FRAME_BYTES));
        assert_eq!(receive(&ends.guest), frame([10, 0, 2, 2], 3, MAX_FRAME_BYTES));
    }

    #[test]
    fn a_side_that_stalls_does_not_stall_the_other_way() {
        let ends = ends();
        ends.guest.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
        let flood = frame([192, 0, 2, 1], 0, 60_000);
        let bytes = [60_000_u32.to_be_bytes().as_slice(), &flood].concat();
        // Nobody reads outside: the guest's frames pile up until its own socket is full.
        let mut partly = 0;
        for _ in 0..100 {
            match (&ends.guest).write(&bytes[partly..]) {
                Ok(count) => partly = (partly + count) % bytes.len(),
                Err(_) => break,
            }
        }
        for mark in 0..100 {
            send(&ends.outside, &frame([10, 0, 2, 2], mark, 1000));
            assert_eq!(receive(&ends.guest).last(), Some(&mark));
        }
    }

    #[test]
    fn many_frames_in_one_piece_all_arrive_in_order() {
        let ends = ends();
        let sender = ends.guest.try_clone().expect("a clone");
        let sending = std::thread::spawn(move || {
            let one = |mark| frame([192, 0, 2, 1], mark, 100);
            let all: Vec<u8> =
                (0..=250).flat_map(|mark| [100_u32.to_be_bytes().as_slice(), &one(mark)].concat()).collect();
            (&sender).write_all(&all).expect("written");
        });
        for mark in 0..=250 {
            assert_eq!(receive(&ends.outside).last(), Some(&mark));
        }
        sending.join().expect("sent");
    }

    #[test]
    fn an_end_of_either_side_ends_the_other() {
        let one = ends();
        drop(one.outside);
        assert_eq!((&one.guest).read(&mut [0]).expect("an end"), 0);
        one.relay.join().expect("ended");
        let other = ends();
        drop(other.guest);
        assert_eq!((&other.outside).read(&mut [0]).expect("an end"), 0);
        other.relay.join().expect("ended");
    }

    #[test]
    fn a_length_beyond_every_frame_ends_it() {
        let ends = ends();
        (&ends.outside).write_all(&[0xff; 4]).expect("written");
        assert_eq!((&ends.guest).read(&mut [0]).expect("an end"), 0);
    }
}
