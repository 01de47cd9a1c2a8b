//! A client's archive, decompressed before it goes to the guest: Docker's daemon takes compressed ones, too.
//!
//! Pieces are bounded on both sides, so an archive that grows a thousandfold costs no memory here, and its size is the
//! guest's own disk's matter.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// How much is read of the compressed archive at once.
const INPUT_BYTES: usize = 64 << 10;
/// Bytes that tell every format apart.
const MAGIC_BYTES: usize = 6;
/// zlib's largest window, which every gzip stream may use.
const GZIP_WINDOW_BITS: u8 = 15;
/// 32 MiB: four times what zstd's own levels use, a quarter of what its format allows a stream to ask for.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
}

/// Whether a member of a gzip stream, or a frame of a zstd stream, is behind or under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Between,
    Within,
}

enum Decoder {
    Gzip(Decompress),
    Zstd(Box<ZstdDecoder<'static>>),
}

/// Reads what `input` holds, whichever way it is compressed.
pub(super) struct Decompressed<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    input_ended: bool,
    format: Option<Format>,
    decoder: Option<Decoder>,
    place: Place,
}

impl<R: AsyncRead + Unpin> Decompressed<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            buffer: vec![0; INPUT_BYTES],
            start: 0,
            end: 0,
            input_ended: false,
            format: None,
            decoder: None,
            place: Place::Between,
        }
    }

    /// The next bytes; none at the end. Reads `input` to its own end, too, ignoring what follows a compressed stream.
    ///
    /// # Errors
    ///
    /// The input's; `InvalidData` and `UnexpectedEof` for streams that are damaged or cut, `Unsupported` for formats
    /// that are not read here.
    pub(super) async fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let format = match self.format {
            Some(format) => format,
            None => {
                self.gather(MAGIC_BYTES).await?;
                let format = detect(self.rest())?;
                *self.format.insert(format)
            }
        };
        match format {
            Format::Plain => {
                self.gather(1).await?;
                let count = output.len().min(self.rest().len());
                output[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
                self.start += count;
                Ok(count)
            }
            Format::Gzip | Format::Zstd => self.decode(format, output).await,
        }
    }

    async fn decode(&mut self, format: Format, output: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.place == Place::Between {
                self.gather(MAGIC_BYTES).await?;
                if detect(self.rest()).ok() != Some(format) {
                    return self.drain().await.map(|()| 0);
                }
                self.begin(format)?;
            }
            self.gather(1).await?;
            let had_input = self.start < self.end;
            let produced = self.step(output)?;
            if produced > 0 {
                return Ok(produced);
            }
            if !had_input && self.place == Place::Within {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn begin(&mut self, format: Format) -> io::Result<()> {
        self.place = Place::Within;
        match (&mut self.decoder, format) {
            (Some(Decoder::Gzip(decoder)), _) => *decoder = Decompress::new_gzip(GZIP_WINDOW_BITS),
            // Goes on with the next frame by itself.
            (Some(Decoder::Zstd(_)), _) => {}
            (None, Format::Zstd) => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                self.decoder = Some(Decoder::Zstd(Box::new(decoder)));
            }
            (None, Format::Gzip | Format::Plain) => {
                self.decoder = Some(Decoder::Gzip(Decompress::new_gzip(GZIP_WINDOW_BITS)));
            }
        }
        Ok(())
    }

    /// Decompresses once, and notes where that has led.
    fn step(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let input = &self.buffer[self.start..self.end];
        let (consumed, produced, ended) = match &mut self.decoder {
            None => return Ok(0),
            Some(Decoder::Gzip(decoder)) => {
                let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
                let status = decoder
                    .decompress(input, output, FlushDecompress::None)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let consumed = usize::try_from(decoder.total_in() - before_in).unwrap_or(usize::MAX);
                let produced = usize::try_from(decoder.total_out() - before_out).unwrap_or(usize::MAX);
                (consumed, produced, status == Status::StreamEnd)
            }
            Some(Decoder::Zstd(decoder)) => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(output);
                let expected = decoder
                    .run(&mut from, &mut to)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                (from.pos(), to.pos(), expected == 0)
            }
        };
        self.start += consumed;
        if ended {
            self.place = Place::Between;
        }
        Ok(produced)
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads until so many bytes are there that were not used, or no more come.
    async fn gather(&mut self, count: usize) -> io::Result<()> {
        while self.end - self.start < count && !self.input_ended {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let read = self.input.read(&mut self.buffer[self.end..]).await?;
            self.input_ended = read == 0;
            self.end += read;
        }
        Ok(())
    }

    async fn drain(&mut self) -> io::Result<()> {
        while !self.input_ended {
            self.start = self.end;
            self.gather(1).await?;
        }
        Ok(())
    }
}

/// What starts with these bytes. What is unknown is taken for a tar stream, which its reader will find out.
fn detect(head: &[u8]) -> io::Result<Format> {
    let unsupported = |name: &str| {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name} archives are not supported")))
    };
    match head {
        [0x1f, 0x8b, ..] => Ok(Format::Gzip),
        // A frame, or one that is to be skipped (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Format::Zstd),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
        _ => Ok(Format::Plain),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ::zstd::encode_all(bytes, 1).unwrap()
    }

    /// Reads from an input that gives `at_once` bytes at a time.
    fn read_in(at_once: usize, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut sender, receiver) = tokio::io::duplex(at_once);
            let send = async move {
                // The reader may have had enough.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut sender, bytes).await;
            };
            let mut input = Decompressed::new(receiver);
            let read = async {
                let (mut whole, mut some) = (Vec::new(), vec![0; 1000]);
                loop {
                    match input.read(&mut some).await? {
                        0 => return Ok(whole),
                        count => whole.extend_from_slice(&some[..count]),
                    }
                }
            };
            tokio::join!(send, read).1
        })
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        read_in(1 << 16, bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_format_gives_what_was_put_in(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..4),
            at_once in 1_usize..200,
        ) {
            let whole = parts.concat();
            for compress in [gzip, zstd] {
                let stream: Vec<u8> = parts.iter().flat_map(|part| compress(part)).collect();
                prop_assert_eq!(&read_in(at_once, &stream).unwrap(), &whole);
                prop_assert_eq!(&read_in(at_once, &[&stream[..], &[0; 700]].concat()).unwrap(), &whole);
                let last = parts.last().map(|part| compress(part).len()).unwrap();
                prop_assert!(read_in(at_once, &stream[..stream.len() - last / 2 - 1]).is_err());
            }
            let plain = [b"plain".as_slice(), &whole].concat();
            prop_assert_eq!(&read_in(at_once, &plain).unwrap(), &plain);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, start in 0_usize..3) {
            let magic = [&[0x1f, 0x8b, 8, 0][..], &[0x28, 0xb5, 0x2f, 0xfd], &[]][start];
            let _ = read(&[magic, &bytes].concat());
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (head, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
            let error = read(head).unwrap_err();
            assert!(error.kind() == io::ErrorKind::Unsupported && error.to_string().contains(name));
        }
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"x").unwrap(), b"x");
    }

    #[test]
    fn what_grows_without_end_is_read_in_bounded_pieces() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(read(&bomb).unwrap().len(), 64 << 20);
        assert_eq!(read(&zstd(&vec![0; 64 << 20])).unwrap().len(), 64 << 20);
    }
}
