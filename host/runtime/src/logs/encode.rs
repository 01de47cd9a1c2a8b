//! An entry's line, as Docker's `json-file` driver writes it: which bytes are escaped, and how, is the same.

use std::ops::Range;

use memchr::memchr;

use super::LogStream;
use super::stamp::STAMP_BYTES;

/// The longest line: every byte of a piece as `\u00XX`, the attributes, and what is around them.
pub(super) const MAX_LINE_BYTES: usize = 256 * 1024;
const HEAD: &[u8] = br#"{"log":""#;
const HEX: &[u8; 16] = b"0123456789abcdef";
/// So many bytes are looked at together: two vectors of the baseline processor.
const BLOCK_BYTES: usize = 32;

/// Knows what is the same in all entries.
#[derive(Debug)]
pub(super) struct Encoder {
    /// For each stream what comes between the text and the time.
    middles: [Vec<u8>; 2],
}

impl Encoder {
    /// `attributes` is a JSON object, or empty.
    pub(super) fn new(attributes: &str) -> Encoder {
        let middle = |stream: LogStream| {
            let attributes =
                if attributes.is_empty() { String::new() } else { format!(r#","attrs":{attributes}"#) };
            format!(r#"","stream":"{}"{attributes},"time":""#, stream.name()).into_bytes()
        };
        Encoder { middles: LogStream::ALL.map(middle) }
    }

    /// Appends the line of an entry.
    pub(super) fn encode(
        &self,
        line: &mut Vec<u8>,
        stream: LogStream,
        text: &[u8],
        stamp: &[u8; STAMP_BYTES],
    ) {
        line.extend_from_slice(HEAD);
        match text.split_last() {
            Some((b'\n', text)) => {
                escape(line, text);
                line.extend_from_slice(br"\n");
            }
            _ => escape(line, text),
        }
        line.extend_from_slice(&self.middles[stream.index()]);
        line.extend_from_slice(stamp);
        line.extend_from_slice(b"\"}\n");
    }
}

fn escape(line: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let plain = plain_length(text);
        line.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let Some(&first) = text.first() else { return };
        let done = if first.is_ascii() {
            escape_ascii(line, first);
            1
        } else {
            let foreign = text.iter().position(u8::is_ascii).unwrap_or(text.len());
            escape_foreign(line, &text[..foreign]);
            foreign
        };
        text = &text[done..];
    }
}

/// Whether a byte stands for itself. Go's encoder escapes what could mean something inside HTML.
fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte)
        & (byte != b'"')
        & (byte != b'\\')
        & (byte != b'<')
        & (byte != b'>')
        & (byte != b'&')
}

/// How many bytes at the start of `text` stand for themselves.
fn plain_length(text: &[u8]) -> usize {
    let (blocks, _) = text.as_chunks::<BLOCK_BYTES>();
    // The compiler makes vector instructions of the inner loop, since it does not end early.
    let whole =
        blocks.iter().take_while(|block| block.iter().fold(true, |all, &byte| all & is_plain(byte))).count()
            * BLOCK_BYTES;
    whole + text[whole..].iter().take_while(|&&byte| is_plain(byte)).count()
}

fn escape_ascii(line: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
        b'\n' => line.extend_from_slice(br"\n"),
        b'\r' => line.extend_from_slice(br"\r"),
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]);
            line.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    }
}

/// Bytes above ASCII: text stays, but for two characters that end lines in JavaScript; what is no text is replaced.
fn escape_foreign(line: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let mut valid = chunk.valid();
        while let Some((start, separator)) = find_separator(valid) {
            line.extend_from_slice(&valid.as_bytes()[..start]);
            line.extend_from_slice(if separator == '\u{2028}' { br"\u2028" } else { br"\u2029" });
            valid = &valid[start + separator.len_utf8()..];
        }
        line.extend_from_slice(valid.as_bytes());
        for _ in chunk.invalid() {
            line.extend_from_slice(br"\ufffd");
        }
    }
}

fn find_separator(text: &str) -> Option<(usize, char)> {
    const FIRST_BYTE: u8 = 0xe2;
    // Most text has none, and a byte is found faster than a character.
    let from = memchr(FIRST_BYTE, text.as_bytes())?;
    let found: Range<usize> = text[from..].find(['\u{2028}', '\u{2029}']).map(|at| from + at..text.len())?;
    text[found.clone()].chars().next().map(|separator| (found.start, separator))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &[u8]) -> String {
        let mut line = Vec::new();
        Encoder::new("").encode(&mut line, LogStream::Stdout, text, b"2026-11-24T08:00:00.123456789Z");
        String::from_utf8(line).unwrap()
    }

    /// The text's JSON string, without its quotes.
    fn escaped(text: &[u8]) -> String {
        let line = encoded(text);
        let rest = line.strip_prefix(r#"{"log":""#).unwrap();
        rest.strip_suffix("\",\"stream\":\"stdout\",\"time\":\"2026-11-24T08:00:00.123456789Z\"}\n")
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_line_is_as_dockers() {
        assert_eq!(
            encoded(b"hello\n"),
            "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T08:00:00.123456789Z\"}\n"
        );
        let mut line = Vec::new();
        let encoder = Encoder::new(r#"{"a":"b"}"#);
        encoder.encode(&mut line, LogStream::Stderr, b"x", b"2026-11-24T08:00:00.123456789Z");
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"log\":\"x\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\
             \"time\":\"2026-11-24T08:00:00.123456789Z\"}\n"
        );
    }

    #[test]
    fn bytes_are_escaped_as_dockers_encoder_does() {
        assert_eq!(escaped(b"tab\there"), r"tab\u0009here");
        assert_eq!(escaped(b"\"q\" \\ \r\x1b[0m\x7f"), "\\\"q\\\" \\\\ \\r\\u001b[0m\x7f");
        assert_eq!(escaped(b"<a>&b"), r"\u003ca\u003e\u0026b");
        assert_eq!(escaped("h\u{e9} \u{20ac} \u{1f600}".as_bytes()), "h\u{e9} \u{20ac} \u{1f600}");
        assert_eq!(
            escaped("\u{2028}\u{2029}\u{2027}a\u{20ac}".as_bytes()),
            "\\u2028\\u2029\u{2027}a\u{20ac}"
        );
        // One replacement for each byte: Go decodes a rune at a time and steps by one over what is none.
        assert_eq!(escaped(b"\xff\xe4\xb8x"), r"\ufffd\ufffd\ufffdx");
        assert_eq!(escaped(b"\xed\xa0\x80"), r"\ufffd\ufffd\ufffd");
        assert_eq!(escaped(b"a\nb\n"), r"a\nb\n");
        assert_eq!(escaped(b""), "");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let json: serde_json::Value = serde_json::from_str(&encoded(text.as_bytes())).unwrap();
            prop_assert_eq!(json["log"].as_str().unwrap(), text);
        }

        #[test]
        fn any_bytes_make_valid_json(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let json: serde_json::Value = serde_json::from_str(&encoded(&bytes)).unwrap();
            let mut expected = String::new();
            for chunk in bytes.utf8_chunks() {
                expected.push_str(chunk.valid());
                expected.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
            }
            prop_assert_eq!(json["log"].as_str().unwrap(), expected);
        }
    }
}
