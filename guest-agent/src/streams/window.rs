//! The bytes of one output that its host may ask for again, and the host's acknowledgements of them.
//!
//! ```text
//!   0 ........ acknowledged ........ sent ........ produced
//!     forgotten             kept           kept             not read of the process
//! ```
//!
//! Every place is a count of bytes since the process started. Does no I/O.

use capsid_protocol::{ACKNOWLEDGEMENT_BYTES, OUTPUT_WINDOW_BYTES};

/// What a window takes in memory as soon as it holds a byte. Most processes write little.
const LEAST_RING_BYTES: usize = 16 << 10;

/// The bytes that are kept.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The byte at place `p` is in `ring[p % ring.len()]`. Empty, or a power of two in length, at most
    /// [`OUTPUT_WINDOW_BYTES`].
    ring: Vec<u8>,
    acknowledged: u64,
    sent: u64,
    produced: u64,
}

/// The host acknowledges what it was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeverSent;

impl Window {
    /// Up to where the host has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Up to where bytes were read of the process.
    pub(super) fn produced(&self) -> u64 {
        self.produced
    }

    /// Whether everything was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.produced
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.produced
    }

    /// Whether [`Window::space`] gives any.
    pub(super) fn has_space(&self) -> bool {
        self.kept() < OUTPUT_WINDOW_BYTES
    }

    /// Room to read the process's next bytes into; none if the window is full. Not always all the room that there is.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let kept = self.kept();
        if kept == self.ring.len() && kept < OUTPUT_WINDOW_BYTES {
            self.grow();
        }
        let length = self.ring.len();
        let start = self.place(self.produced);
        let end = length.min(start + (length - kept));
        &mut self.ring[start..end]
    }

    /// The first `count` bytes of [`Window::space`] have been filled.
    pub(super) fn produce(&mut self, count: usize) {
        debug_assert!(self.kept() + count <= self.ring.len());
        self.produced += count as u64;
    }

    /// The next bytes to send; none if everything was sent. Not always all of them.
    pub(super) fn unsent(&self) -> &[u8] {
        let start = self.place(self.sent);
        let end = self.ring.len().min(start + distance(self.sent, self.produced));
        &self.ring[start..end]
    }

    /// The first `count` bytes of [`Window::unsent`] were sent.
    pub(super) fn send(&mut self, count: usize) {
        self.sent = self.produced.min(self.sent + count as u64);
    }

    /// The host has every byte before `place`. One that it acknowledged earlier changes nothing.
    pub(super) fn acknowledge(&mut self, place: u64) -> Result<(), NeverSent> {
        if place > self.sent {
            return Err(NeverSent);
        }
        self.acknowledged = self.acknowledged.max(place);
        Ok(())
    }

    /// Another connection goes on from `place`, which must be neither before what is acknowledged nor after what is
    /// produced; it is moved in between otherwise.
    pub(super) fn resume(&mut self, place: u64) {
        self.acknowledged = place.clamp(self.acknowledged, self.produced);
        self.sent = self.acknowledged;
    }

    /// Gives the memory back, if nothing is in it.
    pub(super) fn shrink(&mut self) {
        if self.is_acknowledged() {
            self.ring = Vec::new();
        }
    }

    fn kept(&self) -> usize {
        distance(self.acknowledged, self.produced)
    }

    fn place(&self, count: u64) -> usize {
        let length = self.ring.len().max(1) as u64;
        usize::try_from(count % length).unwrap_or(0)
    }

    fn grow(&mut self) {
        let length = (self.ring.len() * 2).clamp(LEAST_RING_BYTES, OUTPUT_WINDOW_BYTES);
        let old = std::mem::take(&mut self.ring);
        let kept = self.kept();
        self.ring = vec![0; length];
        let to = self.place(self.acknowledged);
        // Twice the length: what wraps around in the old ring may or may not do so in the new one.
        for (offset, byte_run) in runs(&old, self.acknowledged, kept) {
            let first = byte_run.len().min(length - (to + offset) % length);
            let start = (to + offset) % length;
            self.ring[start..start + first].copy_from_slice(&byte_run[..first]);
            self.ring[..byte_run.len() - first].copy_from_slice(&byte_run[first..]);
        }
    }
}

/// The one or two runs of `kept` bytes from place `from` on, each with its distance from `from`.
fn runs(ring: &[u8], from: u64, kept: usize) -> impl Iterator<Item = (usize, &[u8])> {
    let start = usize::try_from(from % ring.len().max(1) as u64).unwrap_or(0);
    let first = kept.min(ring.len() - start);
    [(0, &ring[start..start + first]), (first, &ring[..kept - first])].into_iter()
}

fn distance(from: u64, to: u64) -> usize {
    usize::try_from(to - from).unwrap_or(usize::MAX)
}

/// Puts acknowledgements together from bytes that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    bytes: [u8; ACKNOWLEDGEMENT_BYTES],
    filled: usize,
}

impl Acknowledgements {
    /// Adds what has arrived, and gives the greatest acknowledgement that is whole now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<u64> {
        let mut greatest = None;
        for &byte in bytes {
            self.bytes[self.filled] = byte;
            self.filled += 1;
            if self.filled == ACKNOWLEDGEMENT_BYTES {
                self.filled = 0;
                greatest = greatest.max(Some(u64::from_le_bytes(self.bytes)));
            }
        }
        greatest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Produce(usize),
        Send(usize),
        Acknowledge(u64),
        Resume(u64),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_usize..200_000).prop_map(Step::Produce),
            4 => (1_usize..200_000).prop_map(Step::Send),
            3 => (0_u64..=1000).prop_map(Step::Acknowledge),
            1 => (0_u64..=1000).prop_map(Step::Resume),
            1 => Just(Step::Shrink),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// The byte at a place: differs from its neighbours and from those a power of two away.
    fn byte(place: u64) -> u8 {
        place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
    }

    fn between(from: u64, to: u64, permille: u64) -> u64 {
        from + (to - from) * permille / 1000
    }

    fn take(window: &mut Window, step: &Step) {
        match *step {
            Step::Produce(count) => {
                let from = window.produced();
                let space = window.space();
                let count = count.min(space.len());
                for (place, room) in (from..).zip(&mut space[..count]) {
                    *room = byte(place);
                }
                window.produce(count);
            }
            Step::Send(count) => {
                let from = window.sent;
                let unsent = window.unsent();
                let count = count.min(unsent.len());
                assert!((from..).zip(&unsent[..count]).all(|(place, &is)| is == byte(place)));
                window.send(count);
            }
            Step::Acknowledge(permille) => {
                window.acknowledge(between(window.acknowledged, window.sent, permille)).unwrap();
            }
            Step::Resume(permille) => {
                window.resume(between(window.acknowledged, window.produced, permille));
            }
            Step::Shrink => window.shrink(),
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_was_produced_whatever_comes_between(steps in steps()) {
            let mut window = Window::default();
            for step in &steps {
                take(&mut window, step);
                prop_assert!(window.acknowledged <= window.sent && window.sent <= window.produced);
                prop_assert!(window.kept() <= window.ring.len());
                prop_assert!(window.ring.len() <= OUTPUT_WINDOW_BYTES);
                prop_assert_eq!(window.unsent().is_empty(), window.is_sent());
                let has_space = window.has_space();
                prop_assert_eq!(!window.space().is_empty(), has_space);
            }
        }

        #[test]
        fn acknowledgements_are_put_together_whatever_the_pieces(
            mut places in proptest::collection::vec(any::<u64>(), 0..20),
            piece in 1_usize..30,
            half in proptest::collection::vec(any::<u8>(), 0..ACKNOWLEDGEMENT_BYTES),
        ) {
            places.sort_unstable();
            let mut wire: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
            wire.extend(half);
            let mut acknowledgements = Acknowledgements::default();
            let last = wire.chunks(piece).filter_map(|bytes| acknowledgements.push(bytes)).last();
            prop_assert_eq!(last, places.last().copied());
        }
    }

    #[test]
    fn nothing_is_acknowledged_that_was_not_sent() {
        let mut window = Window::default();
        assert_eq!(window.acknowledge(1), Err(NeverSent));
        window.space();
        window.produce(10);
        window.send(4);
        assert_eq!(window.acknowledge(5), Err(NeverSent));
        assert_eq!(window.acknowledge(4), Ok(()));
        assert_eq!(window.acknowledge(2), Ok(()), "what was said before may be said again");
        assert_eq!((window.acknowledged(), window.unsent().len()), (4, 6));
    }

    #[test]
    fn an_idle_window_holds_no_memory() {
        let mut window = Window::default();
        window.space();
        window.produce(10);
        window.send(10);
        window.shrink();
        assert_eq!(window.ring.len(), LEAST_RING_BYTES, "ten bytes are not acknowledged");
        window.acknowledge(10).unwrap();
        window.shrink();
        assert_eq!(window.ring.capacity(), 0);
    }
}
