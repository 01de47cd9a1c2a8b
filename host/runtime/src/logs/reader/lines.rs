//! Whole lines out of a file, many at once, with bounded memory whatever the file holds.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use memchr::{memchr, memchr_iter, memrchr};

use crate::logs::encode::MAX_LINE_BYTES;

/// What is read in one call, unless a line is longer.
const BLOCK_BYTES: usize = 64 * 1024;

/// Where bytes come from.
#[derive(Debug)]
enum Input {
    Plain { file: Arc<File>, position: u64, end: u64 },
    Compressed { decoder: Box<MultiGzDecoder<File>>, ended: bool },
}

impl Input {
    /// Zero at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::Plain { file, position, end } => {
                let wanted = usize::try_from(*end - *position).unwrap_or(usize::MAX).min(buffer.len());
                let count = file.read_at(&mut buffer[..wanted], *position)?;
                // A file that somebody cut ends where it does.
                *position = if count == 0 { *end } else { *position + count as u64 };
                Ok(count)
            }
            Input::Compressed { decoder, ended } => {
                let count = if *ended { 0 } else { decoder.read(buffer)? };
                *ended = count == 0;
                Ok(count)
            }
        }
    }
}

/// Reads a file line by line.
#[derive(Debug)]
pub(super) struct Lines {
    input: Input,
    /// Bytes from `start` to `filled` are read and not given.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// In a line that is longer than any entry, until its end.
    overlong: bool,
    /// So many lines at the start are not wanted.
    unwanted: u64,
    garbage: u64,
}

impl Lines {
    /// Of the bytes from `start` to `end`, which are not after the file's.
    pub(super) fn plain(file: Arc<File>, start: u64, end: u64) -> Lines {
        Lines::new(Input::Plain { file, position: start, end: end.max(start) }, 0)
    }

    /// Of a compressed file, without its first `unwanted` lines.
    pub(super) fn compressed(file: File, unwanted: u64) -> Lines {
        let decoder = Box::new(MultiGzDecoder::new(file));
        Lines::new(Input::Compressed { decoder, ended: false }, unwanted)
    }

    fn new(input: Input, unwanted: u64) -> Lines {
        Lines { input, buffer: Vec::new(), start: 0, filled: 0, overlong: false, unwanted, garbage: 0 }
    }

    /// Up to where the file was read; zero for a compressed one.
    pub(super) fn position(&self) -> u64 {
        match &self.input {
            Input::Plain { position, .. } => *position,
            Input::Compressed { .. } => 0,
        }
    }

    /// Goes on to `new_end`, since the file has grown.
    pub(super) fn extend(&mut self, new_end: u64) {
        if let Input::Plain { end, .. } = &mut self.input {
            *end = new_end.max(*end);
        }
    }

    /// Gives back memory while there is nothing to read.
    pub(super) fn rest(&mut self) {
        if self.start == self.filled {
            self.buffer = Vec::new();
            (self.start, self.filled) = (0, 0);
        }
    }

    /// How many lines were no entries since this was asked last: too long, or without an end.
    pub(super) fn take_garbage(&mut self) -> u64 {
        std::mem::take(&mut self.garbage)
    }

    /// Some lines, each with its newline. None at the end.
    pub(super) fn next_block(&mut self) -> io::Result<Option<&[u8]>> {
        let found = loop {
            if !self.fill()? {
                return Ok(None);
            }
            if self.overlong {
                self.skip_overlong();
            }
            self.skip_unwanted();
            if let Some(newline) = memrchr(b'\n', &self.buffer[self.start..self.filled]) {
                break self.start..self.start + newline + 1;
            }
            if self.filled - self.start >= MAX_LINE_BYTES {
                self.overlong = true;
                self.start = self.filled;
            }
        };
        self.start = found.end;
        Ok(Some(&self.buffer[found]))
    }

    /// Reads more. False at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.filled, 0);
        self.filled -= self.start;
        self.start = 0;
        if self.buffer.len() - self.filled < BLOCK_BYTES / 2 {
            self.buffer.resize(self.filled + BLOCK_BYTES, 0);
        }
        let count = loop {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 && (self.filled > 0 || self.overlong) {
            self.garbage += 1;
            self.filled = 0;
            self.overlong = false;
        }
        self.filled += count;
        Ok(count > 0)
    }

    fn skip_overlong(&mut self) {
        match memchr(b'\n', &self.buffer[self.start..self.filled]) {
            Some(newline) => {
                self.start += newline + 1;
                self.overlong = false;
                self.garbage += 1;
            }
            None => self.start = self.filled,
        }
    }

    fn skip_unwanted(&mut self) {
        if self.unwanted == 0 {
            return;
        }
        let lines = &self.buffer[self.start..self.filled];
        let mut skipped = 0;
        let mut end = 0;
        for newline in memchr_iter(b'\n', lines) {
            skipped += 1;
            end = newline + 1;
            if skipped == self.unwanted {
                break;
            }
        }
        self.unwanted -= skipped;
        self.start += end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> (Vec<u8>, u64) {
        let mut read = Vec::new();
        while let Some(block) = lines.next_block().unwrap() {
            assert!(block.ends_with(b"\n"));
            read.extend_from_slice(block);
        }
        (read, lines.take_garbage())
    }

    fn file_of(text: &[u8]) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(text, 0).unwrap();
        Arc::new(file)
    }

    #[test]
    fn lines_are_whole_and_what_is_none_is_counted() {
        let mut text = b"one\ntwo\n".to_vec();
        text.extend(vec![b'x'; 3 * MAX_LINE_BYTES]);
        text.extend_from_slice(b"\nthree\nfour");
        let mut lines = Lines::plain(file_of(&text), 4, text.len() as u64);
        assert_eq!(all(&mut lines), (b"two\nthree\n".to_vec(), 2));
    }

    #[test]
    fn long_lines_fit_and_the_end_is_kept() {
        let mut text = vec![b'x'; MAX_LINE_BYTES - 1];
        text.extend_from_slice(b"\nnext\nbeyond\n");
        let end = text.len() as u64 - 7;
        let mut lines = Lines::plain(file_of(&text), 0, end);
        assert_eq!(all(&mut lines).0.len() as u64, end);
        lines.rest();
        assert_eq!(lines.position(), end);
        lines.extend(end + 7);
        assert_eq!(all(&mut lines).0, b"beyond\n");
    }
}
