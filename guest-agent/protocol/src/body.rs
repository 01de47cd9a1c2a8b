//! Bytes whose end is said: pieces, each behind its length, then a length of zero.
//!
//! ```text
//!  0        4
//!  ├────────┼──────────────┼────────┼───── … ─┼────────┤
//!  │ length │ length bytes │ length │         │   0    │
//!  │ u32 LE │              │        │         │        │
//! ```

use std::io::{self, Read, Write};

/// The longest piece that either side sends or accepts, in bytes.
pub const MAX_PIECE_BYTES: usize = 1 << 20;

/// Bytes before a piece.
pub const PIECE_HEADER_BYTES: usize = 4;

/// What [`BodyWriter`] gathers before it sends. Fits a vsock connection's buffers, whose limit is 256 KiB.
const PIECE_BYTES: usize = 64 << 10;

/// Takes a piece's header apart; zero is the body's end.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] for a length over the cap.
pub fn decode_piece_header(header: [u8; PIECE_HEADER_BYTES]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_PIECE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a piece of {length} bytes is over the limit of {MAX_PIECE_BYTES}"),
        ));
    }
    Ok(length)
}

/// The header of a piece of `length` bytes, which is [`MAX_PIECE_BYTES`] at most.
#[must_use]
pub fn encode_piece_header(length: usize) -> [u8; PIECE_HEADER_BYTES] {
    debug_assert!(length <= MAX_PIECE_BYTES, "callers cut pieces");
    u32::try_from(length).unwrap_or(0).to_le_bytes()
}

/// Writes a body. Dropping it without [`BodyWriter::finish`] leaves the body without an end.
#[derive(Debug)]
pub struct BodyWriter<W> {
    output: W,
    /// A piece's header, to be filled in, and what is in the piece so far.
    piece: Vec<u8>,
}

impl<W: Write> BodyWriter<W> {
    /// A writer at the start of a body.
    pub fn new(output: W) -> Self {
        let mut piece = Vec::with_capacity(PIECE_HEADER_BYTES + PIECE_BYTES);
        piece.extend([0; PIECE_HEADER_BYTES]);
        Self { output, piece }
    }

    /// Writes the body's end, and gives the output back for what follows.
    ///
    /// # Errors
    ///
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.output.write_all(&encode_piece_header(0))?;
        Ok(self.output)
    }
}

impl<W: Write> Write for BodyWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_HEADER_BYTES + PIECE_BYTES - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.piece.len() - PIECE_HEADER_BYTES;
        if length > 0 {
            self.piece[..PIECE_HEADER_BYTES].copy_from_slice(&encode_piece_header(length));
            self.output.write_all(&self.piece)?;
            self.piece.truncate(PIECE_HEADER_BYTES);
        }
        self.output.flush()
    }
}

/// Reads a body: an end of file is the body's, and an error is everything else that ends it.
#[derive(Debug)]
pub struct BodyReader<R> {
    input: R,
    /// What is left of the current piece.
    left: usize,
    ended: bool,
}

impl<R: Read> BodyReader<R> {
    /// A reader at the start of a body.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, ended: false }
    }

    /// The input: behind the body once its end was read.
    pub fn into_input(self) -> R {
        self.input
    }
}

impl<R: Read> Read for BodyReader<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut header = [0; PIECE_HEADER_BYTES];
            self.input.read_exact(&mut header)?;
            self.left = decode_piece_header(header)?;
            self.ended = self.left == 0;
        }
        let wanted = bytes.len().min(self.left);
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut bytes[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100_000), 0..5),
            rest: Vec<u8>,
        ) {
            let mut writer = BodyWriter::new(Vec::new());
            for bytes in &writes {
                writer.write_all(bytes).unwrap();
            }
            let mut wire = writer.finish().unwrap();
            wire.extend(&rest);
            let mut reader = BodyReader::new(wire.as_slice());
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, writes.concat());
            prop_assert_eq!(reader.into_input(), rest);
        }
    }

    #[test]
    fn a_body_that_is_cut_anywhere_has_no_end() {
        let mut writer = BodyWriter::new(Vec::new());
        writer.write_all(b"some").unwrap();
        writer.flush().unwrap();
        writer.write_all(b"more").unwrap();
        let wire = writer.finish().unwrap();
        for cut in 0..wire.len() {
            let mut read = Vec::new();
            let error = BodyReader::new(&wire[..cut]).read_to_end(&mut read).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[test]
    fn a_piece_over_the_cap_is_refused() {
        let mut read = Vec::new();
        let error = BodyReader::new(&[0xff; 100][..]).read_to_end(&mut read).unwrap_err();
        assert_eq!((error.kind(), read.len()), (io::ErrorKind::InvalidData, 0));
    }
}
