//! Where the last partial blocks of files wait until their inodes are written.
//!
//! A layer can have a million small files; keeping their contents in memory would make memory depend on sizes.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How much stays in memory before it goes to the scratch file.
const BUFFER: usize = 1 << 20;

/// An append-only scratch space: memory first, then an unnamed file that no crash leaves behind.
pub(super) struct Tails {
    folder: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    flushed: u64,
}

impl Tails {
    /// Nothing is created in `folder` before it is needed.
    pub(super) fn new(folder: &Path) -> Tails {
        Tails { folder: folder.to_owned(), file: None, buffer: Vec::new(), flushed: 0 }
    }

    /// Stores `tail` and returns its position.
    pub(super) fn append(&mut self, tail: &[u8]) -> io::Result<u64> {
        let position = self.flushed + self.buffer.len() as u64;
        self.buffer.extend_from_slice(tail);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(position)
    }

    fn flush(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&self.folder)?),
        };
        file.write_all(&self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Turns to reading; tails are cheapest to read in the order they were stored.
    pub(super) fn into_reader(mut self) -> io::Result<TailReader> {
        if self.file.is_none() {
            return Ok(TailReader::Memory(Cursor::new(self.buffer)));
        }
        self.flush()?;
        match self.file {
            Some(mut file) => {
                file.rewind()?;
                Ok(TailReader::File { reader: BufReader::with_capacity(BUFFER, file), position: 0 })
            }
            None => Ok(TailReader::Memory(Cursor::new(Vec::new()))),
        }
    }
}

/// Reads tails back.
pub(super) enum TailReader {
    Memory(Cursor<Vec<u8>>),
    File { reader: BufReader<File>, position: u64 },
}

impl TailReader {
    pub(super) fn read(&mut self, at: u64, tail: &mut [u8]) -> io::Result<()> {
        match self {
            TailReader::Memory(cursor) => {
                cursor.set_position(at);
                cursor.read_exact(tail)
            }
            TailReader::File { reader, position } => {
                match i64::try_from(at.wrapping_sub(*position)) {
                    Ok(forward) if at >= *position => reader.seek_relative(forward)?,
                    _ => {
                        reader.seek(SeekFrom::Start(at))?;
                    }
                }
                reader.read_exact(tail)?;
                *position = at + tail.len() as u64;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_come_back_from_memory_and_from_disk() {
        for count in [3u32, 3000] {
            let folder = tempfile::tempdir().unwrap();
            let mut tails = Tails::new(folder.path());
            let content = |index: u32| index.to_le_bytes().repeat(index as usize % 1000);
            let places: Vec<u64> = (0..count).map(|index| tails.append(&content(index)).unwrap()).collect();
            let mut reader = tails.into_reader().unwrap();
            for index in (0..count).filter(|index| index % 3 != 1).chain([0]) {
                let mut tail = vec![0; content(index).len()];
                reader.read(places[index as usize], &mut tail).unwrap();
                assert_eq!(tail, content(index));
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
