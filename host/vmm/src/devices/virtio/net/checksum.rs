//! The internet checksum (RFC 1071), for frames whose guest leaves it to the device.

use super::header::Partial;

/// Completes the checksum of a frame: sums everything from the start on, where the pseudo-header's sum lies already,
/// and puts the complement there. None, and nothing is changed, if the places are not in the frame.
pub(super) fn complete(frame: &mut [u8], Partial { start, offset }: Partial) -> Option<()> {
    let covered = frame.get_mut(usize::from(start)..)?;
    let offset = usize::from(offset);
    covered.get(offset..offset + 2)?;
    let sum = fold(sum(covered));
    // Zero stands for "no checksum" in UDP; its complement counts the same (RFC 768).
    let value = if sum == u16::MAX { u16::MAX } else { !sum };
    covered[offset..offset + 2].copy_from_slice(&value.to_ne_bytes());
    Some(())
}

/// In the host's byte order: a sum of words is the same in either, but for the order of its own bytes.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 =
        words.by_ref().map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut halves = words.remainder().chunks_exact(2);
    sum += halves.by_ref().map(|half| u64::from(u16::from_ne_bytes([half[0], half[1]]))).sum::<u64>();
    if let [last] = halves.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as the specification says it.
    fn slow(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        let mut sum: u32 = bytes.chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded")
    }

    #[test]
    fn places_outside_the_frame_are_refused() {
        let mut frame = [1; 60];
        for (start, offset) in [(61, 0), (60, 0), (40, 19), (u16::MAX, u16::MAX), (0, u16::MAX)] {
            assert_eq!(complete(&mut frame, Partial { start, offset }), None);
        }
        assert_eq!(frame, [1; 60]);
    }

    #[test]
    fn a_sum_of_nothing_is_told_from_no_checksum() {
        let mut frame = [0xff; 8];
        assert_eq!(complete(&mut frame, Partial { start: 0, offset: 6 }), Some(()));
        assert_eq!(frame[6..], [0xff; 2]);
    }

    proptest! {
        #[test]
        fn what_was_completed_sums_up(
            bytes in prop::collection::vec(any::<u8>(), 2..300),
            start in 0_u16..100,
            offset in (0_u16..60).prop_map(|half| half * 2),
        ) {
            let mut frame = bytes.clone();
            if complete(&mut frame, Partial { start, offset }).is_some() {
                let covered = &frame[usize::from(start)..];
                // Everything together, the pseudo-header's sum once more as the receiver would.
                let pseudo = slow(&bytes[usize::from(start + offset)..][..2]);
                let all = u32::from(slow(covered)) + u32::from(pseudo);
                prop_assert_eq!(fold(u64::from(all)), u16::MAX);
            } else {
                prop_assert_eq!(frame, bytes);
            }
        }
    }
}
