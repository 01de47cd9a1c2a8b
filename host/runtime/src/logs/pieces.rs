//! Where an output is cut into entries: after each newline, and where a line has no newline for too long.
//!
//! Where it is cut depends on the output's bytes alone, not on the chunks in which they come: what is read again after
//! a crash is cut as it was before.

use memchr::memchr;

/// What an entry may hold of a line; a longer one becomes several entries, of which only the last ends with a newline.
/// Docker's copier has a buffer of this size.
pub(super) const MAX_PIECE_BYTES: usize = 16 * 1024;

/// The length of the first entry of `pending`, or none when more must be seen first.
///
/// A line that is too long is cut between characters, so that those who join its parts get their text back.
pub(super) fn entry_length(pending: &[u8]) -> Option<usize> {
    let piece = pending.get(..MAX_PIECE_BYTES);
    match memchr(b'\n', piece.unwrap_or(pending)) {
        Some(newline) => Some(newline + 1),
        None => piece.map(whole_characters),
    }
}

/// Moves so much of `rest` to `pending`, which holds the start of a line, that [`entry_length`] can tell where its
/// entry ends, if `rest` has so much.
pub(super) fn complete<'a>(pending: &mut Vec<u8>, rest: &'a [u8]) -> &'a [u8] {
    let room = MAX_PIECE_BYTES.saturating_sub(pending.len()).min(rest.len());
    let wanted = memchr(b'\n', &rest[..room]).map_or(room, |newline| newline + 1);
    let (taken, rest) = rest.split_at(wanted);
    pending.extend_from_slice(taken);
    rest
}

/// The length of `piece` without the start of a character that it cuts. Bytes that are no text are kept together.
fn whole_characters(piece: &[u8]) -> usize {
    /// A character has at most four bytes, so a cut one leaves at most three.
    const MAX_CUT_BYTES: usize = 3;
    let tail_start = piece.len().saturating_sub(MAX_CUT_BYTES);
    for start in (tail_start..piece.len()).rev() {
        let needed = match piece[start] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if start + needed > piece.len() { start } else { piece.len() };
    }
    piece.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_newlines_and_long_ones_at_the_limit() {
        assert_eq!(entry_length(b""), None);
        assert_eq!(entry_length(b"abc"), None);
        assert_eq!(entry_length(b"\n"), Some(1));
        assert_eq!(entry_length(b"abc\ndef\n"), Some(4));
        let mut long = vec![b'x'; MAX_PIECE_BYTES - 1];
        assert_eq!(entry_length(&long), None);
        long.push(b'\n');
        assert_eq!(entry_length(&long), Some(MAX_PIECE_BYTES));
        long.insert(0, b'x');
        assert_eq!(
            entry_length(&long),
            Some(MAX_PIECE_BYTES),
            "the newline is an entry of its own, as with Docker"
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        for (tail, kept) in
            [("é", 1), ("€", 1), ("€", 2), ("😀", 1), ("😀", 2), ("😀", 3), ("é", 2), ("😀", 4), ("a", 1)]
        {
            let mut line = vec![b'x'; MAX_PIECE_BYTES - kept];
            line.extend_from_slice(tail.as_bytes());
            let whole = kept == tail.len();
            let expected = if whole { MAX_PIECE_BYTES } else { MAX_PIECE_BYTES - kept };
            assert_eq!(entry_length(&line), Some(expected), "{tail} {kept}");
        }
        assert_eq!(entry_length(&[0x80; MAX_PIECE_BYTES]), Some(MAX_PIECE_BYTES));
        assert_eq!(entry_length(&[0xff; MAX_PIECE_BYTES]), Some(MAX_PIECE_BYTES));
    }

    #[test]
    fn the_end_of_a_line_joins_its_start() {
        let mut pending = b"hello ".to_vec();
        let rest = complete(&mut pending, b"world\nnext");
        assert_eq!((&pending[..], rest), (&b"hello world\n"[..], &b"next"[..]));
    }
}
