//! Framing: a fixed header with a capped length, then a JSON body.
//!
//! ```text
//!  0        4                12
//!  ├────────┼────────────────┼─────────────
//!  │ length │ request id     │ body (JSON)
//!  │ u32 LE │ u64 LE         │ length bytes
//! ```
//!
//! The length counts the body alone. Both sides check it before they allocate.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before a frame's body.
pub const FRAME_HEADER_BYTES: usize = 12;

/// The longest body that either side sends or accepts, in bytes. Linux lets a process start with at most 2 MiB of
/// arguments and environment under the default stack limit; JSON may need twice that to write them.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// Pairs a response with its request; chosen by the requester, unique on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a frame could not be read or written. The connection is of no further use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed, or ended inside a frame.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// A length beyond [`MAX_BODY_BYTES`], read or to be written.
    #[error("a frame of {length} bytes is over the limit of {MAX_BODY_BYTES}")]
    TooLong {
        /// The length that was announced.
        length: usize,
    },
    /// The body is not the JSON of the expected message.
    #[error("the frame's body is not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
}

/// One frame as it goes over the wire, for callers that write asynchronously.
///
/// # Errors
///
/// [`FrameError::TooLong`] when the message's JSON is over the cap.
pub fn encode_frame<M: Serialize>(id: RequestId, message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let length = frame.len() - FRAME_HEADER_BYTES;
    let header = u32::try_from(length).ok().filter(|_| length <= MAX_BODY_BYTES);
    let header = header.ok_or(FrameError::TooLong { length })?;
    frame[..4].copy_from_slice(&header.to_le_bytes());
    frame[4..FRAME_HEADER_BYTES].copy_from_slice(&id.0.to_le_bytes());
    Ok(frame)
}

/// Takes a header apart: the request's id and the length of the body that follows, already checked.
///
/// # Errors
///
/// [`FrameError::TooLong`] for a length beyond the cap.
pub fn decode_header(header: [u8; FRAME_HEADER_BYTES]) -> Result<(RequestId, usize), FrameError> {
    let [l0, l1, l2, l3, id @ ..] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_BODY_BYTES {
        return Err(FrameError::TooLong { length });
    }
    Ok((RequestId(u64::from_le_bytes(id)), length))
}

/// Takes a body apart.
///
/// # Errors
///
/// [`FrameError::Malformed`] when it is not the JSON of the message.
pub fn decode_body<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Malformed)
}

/// Writes one frame, in one `write_all`. Blocks as the writer does.
///
/// # Errors
///
/// [`FrameError::TooLong`] before anything is written; [`FrameError::Io`] when the writer fails, after which the
/// stream may hold half a frame.
pub fn write_frame<M: Serialize>(
    writer: &mut impl Write,
    id: RequestId,
    message: &M,
) -> Result<(), FrameError> {
    writer.write_all(&encode_frame(id, message)?).map_err(FrameError::Io)
}

/// Reads one frame. Blocks until it is whole.
///
/// # Errors
///
/// [`FrameError::Closed`] at a clean end between frames; the others leave the stream in an undefined place.
pub fn read_frame<M: DeserializeOwned>(reader: &mut impl Read) -> Result<(RequestId, M), FrameError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    read_header(reader, &mut header)?;
    let (id, length) = decode_header(header)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).map_err(FrameError::Io)?;
    Ok((id, decode_body(&body)?))
}

/// Puts frames together from bytes that arrive in pieces, for a reader that must not block.
///
/// Holds at most one frame's bytes beyond what one [`FrameAssembler::push`] brought: push, then take every frame
/// with [`FrameAssembler::next_frame`] before pushing again.
#[derive(Debug)]
pub struct FrameAssembler {
    bytes: Vec<u8>,
    max_body_bytes: usize,
}

impl Default for FrameAssembler {
    fn default() -> Self {
        Self::with_limit(MAX_BODY_BYTES)
    }
}

impl FrameAssembler {
    /// One that refuses bodies longer than `max_body_bytes`, which is [`MAX_BODY_BYTES`] at most.
    #[must_use]
    pub fn with_limit(max_body_bytes: usize) -> Self {
        Self { bytes: Vec::new(), max_body_bytes: max_body_bytes.min(MAX_BODY_BYTES) }
    }

    /// Adds what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first whole frame out; `None` until there is one.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] as soon as the header is there, and [`FrameError::Malformed`].
    pub fn next_frame<M: DeserializeOwned>(&mut self) -> Result<Option<(RequestId, M)>, FrameError> {
        let Some(&[l0, l1, l2, l3, ref id @ ..]) = self.bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let id = RequestId(u64::from_le_bytes(*id));
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > self.max_body_bytes {
            return Err(FrameError::TooLong { length });
        }
        let Some(body) = self.bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(FrameError::Malformed)?;
        self.bytes.drain(..FRAME_HEADER_BYTES + length);
        if self.bytes.is_empty() {
            // A connection's rare large frame must not hold its memory for the connection's life.
            self.bytes.shrink_to(FRAME_HEADER_BYTES + 512);
        }
        Ok(Some((id, message)))
    }

    /// What has arrived and is not a whole frame, leaving none: bytes of whatever follows the frames.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }
}

/// Fills `header`, telling an end before its first byte from one after it.
fn read_header(reader: &mut impl Read, header: &mut [u8; FRAME_HEADER_BYTES]) -> Result<(), FrameError> {
    let first = loop {
        match reader.read(header) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    };
    reader.read_exact(&mut header[first..]).map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(id: u64, text in ".{0,200}") {
            let mut wire = Vec::new();
            write_frame(&mut wire, RequestId(id), &text).unwrap();
            let mut reader = wire.as_slice();
            let (read_id, read): (_, String) = read_frame(&mut reader).unwrap();
            prop_assert_eq!((read_id, read), (RequestId(id), text));
            prop_assert!(matches!(read_frame::<String>(&mut reader), Err(FrameError::Closed)));
        }

        #[test]
        fn an_assembler_gives_the_frames_whatever_the_pieces(
            texts in proptest::collection::vec(".{0,40}", 0..8),
            piece in 1_usize..64,
        ) {
            let mut wire = Vec::new();
            for (id, text) in (0..).zip(&texts) {
                write_frame(&mut wire, RequestId(id), text).unwrap();
            }
            let mut assembler = FrameAssembler::default();
            let mut read = Vec::new();
            for bytes in wire.chunks(piece) {
                assembler.push(bytes);
                while let Some((_, text)) = assembler.next_frame::<String>().unwrap() {
                    read.push(text);
                }
            }
            prop_assert_eq!(read, texts);
            prop_assert!(assembler.into_rest().is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_frame::<crate::Request>(&mut bytes.as_slice());
            let _ = read_frame::<crate::Response>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn an_announced_length_over_the_cap_is_refused_before_it_is_read() {
        let mut wire = u32::MAX.to_le_bytes().to_vec();
        wire.extend([0; 8]);
        let refused = read_frame::<String>(&mut wire.as_slice());
        assert!(matches!(refused, Err(FrameError::TooLong { length }) if length == u32::MAX as usize));
    }

    #[test]
    fn a_body_over_the_cap_is_not_written() {
        let mut wire = Vec::new();
        let refused = write_frame(&mut wire, RequestId(1), &"x".repeat(MAX_BODY_BYTES));
        assert!(matches!(refused, Err(FrameError::TooLong { .. })) && wire.is_empty());
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error_and_not_an_end() {
        let mut wire = Vec::new();
        write_frame(&mut wire, RequestId(7), &"half").unwrap();
        for cut in 1..wire.len() {
            let read = read_frame::<String>(&mut &wire[..cut]);
            assert!(matches!(read, Err(FrameError::Io(_))), "cut at {cut}");
        }
    }
}
