//! Where in a file to begin, without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use memchr::{memchr, memchr_iter, memrchr_iter};

use crate::logs::compress::Extra;
use crate::logs::decode::Decoder;
use crate::logs::encode::MAX_LINE_BYTES;
use crate::logs::files::{BACKWARD_BLOCK_BYTES, read_fully_at};

/// A search that is this close to what it looks for leaves the rest to who reads.
const CLOSE_BYTES: u64 = 64 * 1024;

/// What is read first to find an entry.
const FIRST_LOOK_BYTES: usize = 16 * 1024;

/// Where the last lines of a file begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// There.
    Start(u64),
    /// The file has only so many.
    Fewer(u64),
}

/// Finds the last `wanted` lines of the first `end` bytes, from behind.
pub(super) fn last_lines(file: &File, end: u64, wanted: u64) -> io::Result<Tail> {
    if wanted == 0 {
        return Ok(Tail::Start(end));
    }
    let mut block = vec![0; BACKWARD_BLOCK_BYTES];
    let mut newlines = 0;
    let mut block_end = end;
    while block_end > 0 {
        let start = block_end.saturating_sub(BACKWARD_BLOCK_BYTES as u64);
        let wanted_bytes = usize::try_from(block_end - start).unwrap_or(BACKWARD_BLOCK_BYTES);
        let count = read_fully_at(file, &mut block[..wanted_bytes], start)?;
        for newline in memrchr_iter(b'\n', &block[..count]) {
            // The newline that ends the line before the wanted ones.
            if newlines == wanted {
                return Ok(Tail::Start(start + newline as u64 + 1));
            }
            newlines += 1;
        }
        block_end = start;
    }
    Ok(if newlines == wanted { Tail::Start(0) } else { Tail::Fewer(newlines) })
}

/// Finds a place before which all entries of the first `end` bytes are from before `since`, given that their times are
/// in order. Lines which are no entries are passed over.
pub(super) fn first_since(file: &File, end: u64, since: Timestamp) -> io::Result<u64> {
    let mut decoder = Decoder::default();
    let (mut before, mut after) = (0, end);
    while after - before > CLOSE_BYTES {
        let middle = before + (after - before) / 2;
        match next_entry(file, middle, after, &mut decoder)? {
            Some((start, time)) if time < since => before = start,
            _ => after = middle,
        }
    }
    Ok(before)
}

/// The first entry that begins after `from` and before `end`: where, and its time.
fn next_entry(
    file: &File,
    from: u64,
    end: u64,
    decoder: &mut Decoder,
) -> io::Result<Option<(u64, Timestamp)>> {
    let mut buffer = vec![0; 2 * MAX_LINE_BYTES];
    let mut from = from;
    while from < end {
        // Most lines are short: a little is read first.
        for wanted in [FIRST_LOOK_BYTES, buffer.len()] {
            let count = read_fully_at(file, &mut buffer[..wanted], from)?;
            let mut lines = newline_ranges(&buffer[..count]);
            let found = lines.find_map(|line| Some((line.start, decoder.time(&buffer[line])?)));
            if let Some((start, time)) = found {
                let start = from + start as u64;
                return Ok((start < end).then_some((start, time)));
            }
            if count < wanted {
                return Ok(None);
            }
        }
        // Nothing but garbage, whose last line may be an entry's start.
        from += MAX_LINE_BYTES as u64;
    }
    Ok(None)
}

/// The lines of `bytes` that have both ends in it, without their newlines.
fn newline_ranges(bytes: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let first = memchr(b'\n', bytes).map_or(bytes.len(), |newline| newline + 1);
    let mut start = first;
    memchr_iter(b'\n', &bytes[first..]).map(move |newline| {
        let line = start..first + newline;
        start = line.end + 1;
        line
    })
}

/// How many lines a compressed file has.
pub(super) fn count_compressed_lines(mut file: &File) -> io::Result<u64> {
    file.rewind()?;
    let mut decoder = MultiGzDecoder::new(file);
    let mut block = vec![0; BACKWARD_BLOCK_BYTES];
    let mut newlines = 0;
    loop {
        match decoder.read(&mut block) {
            Ok(0) => break,
            Ok(count) => newlines += memchr_iter(b'\n', &block[..count]).count() as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(newlines)
}

/// The time of the last entry of a compressed file, if whoever compressed it says.
pub(super) fn compressed_last_time(mut file: &File) -> io::Result<Option<Timestamp>> {
    file.rewind()?;
    let decoder = MultiGzDecoder::new(file);
    let extra = decoder.header().and_then(flate2::GzHeader::extra);
    let last_time = extra
        .and_then(|extra| serde_json::from_slice::<Extra>(extra).ok())
        .and_then(|extra| extra.last_time.parse().ok());
    file.rewind()?;
    Ok(last_time)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::logs::stamp::stamp_text;

    fn file_of(text: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(text, 0).unwrap();
        file
    }

    #[test]
    fn the_last_lines_are_found_from_behind() {
        let file = file_of(b"one\ntwo\nthree\n");
        assert_eq!(last_lines(&file, 14, 0).unwrap(), Tail::Start(14));
        assert_eq!(last_lines(&file, 14, 1).unwrap(), Tail::Start(8));
        assert_eq!(last_lines(&file, 14, 2).unwrap(), Tail::Start(4));
        assert_eq!(last_lines(&file, 14, 3).unwrap(), Tail::Start(0));
        assert_eq!(last_lines(&file, 14, 4).unwrap(), Tail::Fewer(3));
        assert_eq!(last_lines(&file, 8, 1).unwrap(), Tail::Start(4));
        assert_eq!(last_lines(&file, 0, 1).unwrap(), Tail::Fewer(0));
    }

    #[test]
    fn the_last_lines_are_found_across_blocks() {
        let text = "0123456789\n".repeat(20_000);
        let file = file_of(text.as_bytes());
        for wanted in [1, 5_000, 5_957, 5_958, 5_959, 19_999, 20_000] {
            let expected = text.len() as u64 - 11 * wanted;
            assert_eq!(last_lines(&file, text.len() as u64, wanted).unwrap(), Tail::Start(expected));
        }
        assert_eq!(last_lines(&file, text.len() as u64, 20_001).unwrap(), Tail::Fewer(20_000));
    }

    #[test]
    fn a_time_is_found_by_halving() {
        let mut text = Vec::new();
        let mut starts = Vec::new();
        for entry in 0..20_000_i64 {
            if entry % 50 == 0 {
                text.extend_from_slice(b"garbage\n");
            }
            starts.push(text.len() as u64);
            text.extend_from_slice(br#"{"log":"x\n","stream":"stdout","time":""#);
            text.extend_from_slice(&stamp_text(entry * 10));
            text.extend_from_slice(b"\"}\n");
        }
        let file = file_of(&text);
        for wanted in [0_i64, 1, 777, 10_000, 19_999] {
            for since in [wanted * 10, wanted * 10 - 5] {
                let since = Timestamp::from_nanosecond(i128::from(since)).unwrap();
                let found = first_since(&file, text.len() as u64, since).unwrap();
                let start = starts[usize::try_from(wanted).unwrap()];
                assert!(found <= start, "{wanted}: {found} is after {start}");
                assert!(start - found <= 2 * CLOSE_BYTES, "{wanted}: {found} is far before {start}");
            }
        }
        let late = Timestamp::from_second(1).unwrap();
        assert!(text.len() as u64 - first_since(&file, text.len() as u64, late).unwrap() <= 2 * CLOSE_BYTES);
    }

    #[test]
    fn garbage_alone_ends_the_search() {
        for text in [vec![b'x'; 3 << 20], vec![0; 1 << 20], b"x\n".repeat(1 << 20)] {
            let file = file_of(&text);
            let found = first_since(&file, text.len() as u64, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(found, 0);
        }
    }
}
