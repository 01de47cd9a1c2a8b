//! Contents of files: written as they stream by, whole blocks at once, with stretches of zeros left out.

use std::io::{Seek, Write};

use super::writer::ErofsWriter;
use super::{BLOCK, BLOCK_SIZE, ErofsError, NULL_BLOCK};

/// Holes are found in units of at least this. Smaller would find more and cost a longer list.
const MIN_CHUNK_BITS: u32 = 16;
/// The most entries that the list of one file's chunks may have; larger files get larger chunks.
const MAX_CHUNKS: u64 = 1 << 14;
/// The largest chunk the format can state: 31 bits above the block size.
const MAX_CHUNK_BITS: u32 = 12 + 31;
/// Tails longer than this get a block of their own: inlining them would only move the waste elsewhere.
const MAX_INLINE_TAIL: usize = 3072;

static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Where a file's content lies.
#[derive(Debug)]
pub(crate) enum FileData {
    /// Blocks in a row, the last perhaps as an inline tail.
    Flat {
        size: u64,
        block: u32,
        /// Position of the tail in the scratch space.
        tail: Option<u64>,
    },
    /// Equal chunks, each somewhere or a hole.
    Chunked { size: u64, bits: u32, chunks: Box<[u32]> },
}

impl FileData {
    pub(super) fn memory(&self) -> u64 {
        match self {
            FileData::Flat { .. } => 0,
            FileData::Chunked { chunks, .. } => chunks.len() as u64 * 4,
        }
    }
}

/// A file being written; lives between [`ErofsWriter::begin_file`] and [`ErofsWriter::end_file`].
pub(crate) struct FileStream {
    size: u64,
    /// The part of the file in whole blocks.
    whole: u64,
    written: u64,
    bits: u32,
    /// Where the first chunk lies, if the file is flat so far.
    base: u32,
    /// Where the current chunk lies, once it has a byte other than zero.
    current: Option<u32>,
    /// Zeros at the start of the current chunk that were not written.
    zeros: u64,
    /// The chunks before the current one, once there is a hole among them.
    chunks: Option<Vec<u32>>,
    /// What is behind the whole blocks.
    tail: Vec<u8>,
}

impl FileStream {
    fn chunk_size(&self) -> u64 {
        1 << self.bits
    }

    fn chunk_number(&self) -> u64 {
        self.written >> self.bits
    }

    /// How much of `length` bytes belongs to the current chunk's whole blocks.
    fn step(&self, length: u64) -> u64 {
        let chunk_end = (self.chunk_number() + 1) << self.bits;
        length.min(chunk_end.min(self.whole).saturating_sub(self.written))
    }

    /// The list of chunks, made from the flat run so far if there was none yet.
    fn chunk_list(&mut self, before: u64) -> &mut Vec<u32> {
        let blocks = self.chunk_size() / BLOCK;
        let base = u64::from(self.base);
        self.chunks.get_or_insert_with(|| {
            // The run was written, so its block numbers fit; see `block_number`.
            (0..before).map(|index| u32::try_from(base + index * blocks).unwrap_or(NULL_BLOCK)).collect()
        })
    }
}

impl<W: Write + Seek> ErofsWriter<W> {
    /// Starts a file of `size` bytes. Exactly that many must follow.
    pub(crate) fn begin_file(&mut self, size: u64) -> Result<FileStream, ErofsError> {
        let needed = 64 - size.div_ceil(MAX_CHUNKS).saturating_sub(1).leading_zeros();
        let bits = needed.max(MIN_CHUNK_BITS);
        if bits > MAX_CHUNK_BITS {
            return Err(ErofsError::FileTooLarge(size));
        }
        let whole = size - size % BLOCK;
        let base = self.block_number()?;
        let tail = Vec::new();
        Ok(FileStream { size, whole, written: 0, bits, base, current: None, zeros: 0, chunks: None, tail })
    }

    /// Continues a file.
    pub(crate) fn write_file(&mut self, file: &mut FileStream, mut bytes: &[u8]) -> Result<(), ErofsError> {
        while file.written < file.whole && !bytes.is_empty() {
            let step = file.step(bytes.len() as u64);
            // At most the length of the slice.
            let (part, rest) = bytes.split_at(usize::try_from(step).unwrap_or(bytes.len()));
            if file.current.is_none() && is_zero(part) {
                file.zeros += step;
            } else {
                self.materialise(file)?;
                self.write(part)?;
            }
            self.advance(file, step);
            bytes = rest;
        }
        file.tail.extend_from_slice(bytes);
        Ok(())
    }

    /// Continues a file with zeros; costs nothing but one entry for each chunk.
    pub(crate) fn write_hole(&mut self, file: &mut FileStream, mut length: u64) -> Result<(), ErofsError> {
        while file.written < file.whole && length > 0 {
            let step = file.step(length);
            match file.current {
                None => file.zeros += step,
                Some(_) => self.write_zeros(step)?,
            }
            self.advance(file, step);
            length -= step;
        }
        // What is left belongs to the last block.
        let rest = usize::try_from(length.min(BLOCK)).unwrap_or(0);
        file.tail.resize(file.tail.len() + rest, 0);
        Ok(())
    }

    /// Ends a file. `room` is how much its inode's block has left for a tail.
    pub(crate) fn end_file(&mut self, mut file: FileStream, room: usize) -> Result<FileData, ErofsError> {
        let hole = file.current.is_none() && is_zero(&file.tail);
        if file.size >= BLOCK && !file.size.is_multiple_of(file.chunk_size()) && hole {
            let number = file.chunk_number();
            file.chunk_list(number).push(NULL_BLOCK);
        } else if file.chunks.is_some() && !file.size.is_multiple_of(file.chunk_size()) {
            self.materialise(&mut file)?;
            self.write_padded(&file.tail)?;
            let block = file.current.unwrap_or(NULL_BLOCK);
            if let Some(chunks) = &mut file.chunks {
                chunks.push(block);
            }
        }
        if let Some(chunks) = file.chunks {
            return Ok(FileData::Chunked { size: file.size, bits: file.bits, chunks: chunks.into() });
        }
        if file.zeros > 0 {
            self.materialise(&mut file)?;
        }
        let block = if file.size == 0 { 0 } else { file.base };
        let tail = if file.tail.is_empty() {
            None
        } else if file.tail.len() <= room.min(MAX_INLINE_TAIL) {
            Some(self.keep_tail(&file.tail)?)
        } else {
            self.write_padded(&file.tail)?;
            None
        };
        Ok(FileData::Flat { size: file.size, block, tail })
    }

    /// Makes sure that the current chunk is being written, with the zeros that were held back.
    fn materialise(&mut self, file: &mut FileStream) -> Result<(), ErofsError> {
        if file.current.is_none() {
            file.current = Some(self.block_number()?);
            self.write_zeros(std::mem::take(&mut file.zeros))?;
        }
        Ok(())
    }

    /// Counts what was taken, and closes the chunk when it is full.
    fn advance(&mut self, file: &mut FileStream, step: u64) {
        let number = file.chunk_number();
        file.written += step;
        if !file.written.is_multiple_of(file.chunk_size()) {
            return;
        }
        file.zeros = 0;
        match (file.current.take(), &mut file.chunks) {
            (Some(block), Some(chunks)) => chunks.push(block),
            (Some(_), None) => {}
            (None, _) => file.chunk_list(number).push(NULL_BLOCK),
        }
    }

    fn write_zeros(&mut self, mut length: u64) -> Result<(), ErofsError> {
        while length > 0 {
            let step = length.min(BLOCK);
            self.write(&ZEROS[..usize::try_from(step).unwrap_or(0)])?;
            length -= step;
        }
        Ok(())
    }

    fn write_padded(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.write(bytes)?;
        self.write_zeros((bytes.len() as u64).wrapping_neg() % BLOCK)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
