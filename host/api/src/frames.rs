//! The multiplexed stream: how stdout and stderr of a container without a terminal share one connection.
//!
//! Each frame is a header of eight bytes, the stream's number, three zeros and the length of what follows as a
//! big-endian 32-bit number, and then the bytes (Docker Engine API, "Attach to a container", "Stream format").

use bytes::Bytes;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 8;

/// Whose bytes a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameStream {
    /// Not sent by servers; written by old clients to mark their input.
    Stdin,
    /// The process's stdout.
    Stdout,
    /// The process's stderr.
    Stderr,
    /// The server's own words: an error in the middle of a stream.
    System,
}

/// A stream's number that no stream has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unrecognized stream: {0}")]
pub struct UnknownStream(pub u8);

/// The header of a frame with `length` bytes.
#[must_use]
pub fn header(stream: FrameStream, length: u32) -> [u8; HEADER_BYTES] {
    let number = match stream {
        FrameStream::Stdin => 0,
        FrameStream::Stdout => 1,
        FrameStream::Stderr => 2,
        FrameStream::System => 3,
    };
    let [a, b, c, d] = length.to_be_bytes();
    [number, 0, 0, 0, a, b, c, d]
}

/// Takes a header apart.
///
/// # Errors
///
/// [`UnknownStream`].
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Result<(FrameStream, u32), UnknownStream> {
    let [number, _, _, _, a, b, c, d] = header;
    let stream = match number {
        0 => FrameStream::Stdin,
        1 => FrameStream::Stdout,
        2 => FrameStream::Stderr,
        3 => FrameStream::System,
        other => return Err(UnknownStream(other)),
    };
    Ok((stream, u32::from_be_bytes([a, b, c, d])))
}

/// Takes a multiplexed stream apart, as its bytes come: no frame is ever held whole.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER_BYTES],
    /// How much of the header is there.
    have: usize,
    /// The frame under way, and how much of it is still to come.
    frame: Option<(FrameStream, usize)>,
}

impl Decoder {
    /// Takes the next bytes of one stream off `input`, which may be a part of a frame; nothing when `input` is used up.
    ///
    /// # Errors
    ///
    /// [`UnknownStream`], after which nothing can be told of the rest.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<(FrameStream, Bytes)>, UnknownStream> {
        while !input.is_empty() {
            if let Some((stream, left)) = self.frame {
                let piece = input.split_to(left.min(input.len()));
                self.frame = (piece.len() < left).then(|| (stream, left - piece.len()));
                return Ok(Some((stream, piece)));
            }
            let part = input.split_to((HEADER_BYTES - self.have).min(input.len()));
            self.header[self.have..self.have + part.len()].copy_from_slice(&part);
            self.have += part.len();
            if self.have == HEADER_BYTES {
                self.have = 0;
                let (stream, length) = parse_header(self.header)?;
                // 32 bits fit the address space of every machine that this runs on.
                self.frame = (length > 0).then_some((stream, length as usize));
            }
        }
        Ok(None)
    }

    /// Whether the stream may end here: between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.have == 0 && self.frame.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(length: u32, number in 0_u8..4) {
            let stream = parse_header([number, 0, 0, 0, 0, 0, 0, 0]).unwrap().0;
            prop_assert_eq!(parse_header(header(stream, length)), Ok((stream, length)));
        }
    }

    proptest! {
        #[test]
        fn frames_come_apart_however_their_bytes_are_cut(
            frames in prop::collection::vec((1_u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(1_usize..23, 1..8),
        ) {
            let mut wire = Vec::new();
            let (mut sent, mut seen): ([Vec<u8>; 2], [Vec<u8>; 2]) = Default::default();
            for (number, payload) in &frames {
                let stream = parse_header([*number, 0, 0, 0, 0, 0, 0, 0]).unwrap().0;
                wire.extend(header(stream, u32::try_from(payload.len()).unwrap()));
                wire.extend(payload);
                sent[usize::from(*number) - 1].extend(payload);
            }
            let mut decoder = Decoder::default();
            let (mut rest, mut cut) = (Bytes::from(wire), cuts.iter().cycle());
            while !rest.is_empty() {
                let mut input = rest.split_to((*cut.next().unwrap()).min(rest.len()));
                while let Some((stream, piece)) = decoder.next(&mut input).unwrap() {
                    seen[usize::from(stream == FrameStream::Stderr)].extend(&piece);
                }
            }
            prop_assert_eq!(seen, sent);
            prop_assert!(decoder.is_between_frames());
        }
    }

    #[test]
    fn a_stream_that_does_not_exist_is_refused() {
        assert_eq!(parse_header([4, 0, 0, 0, 0, 0, 0, 0]), Err(UnknownStream(4)));
    }
}
