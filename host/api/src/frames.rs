//! The multiplexed stream: how stdout and stderr of a container without a terminal share one connection.
//!
//! Each frame is a header of eight bytes, the stream's number, three zeros and the length of what follows as a
//! big-endian 32-bit number, and then the bytes (Docker Engine API, "Attach to a container", "Stream format").

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

    #[test]
    fn a_stream_that_does_not_exist_is_refused() {
        assert_eq!(parse_header([4, 0, 0, 0, 0, 0, 0, 0]), Err(UnknownStream(4)));
    }
}
