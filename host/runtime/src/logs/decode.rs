//! From a line back to an entry.
//!
//! Lines in the order that Docker and we write are taken apart directly; any other JSON object with the same members is
//! read as well. What is neither is not an entry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use memchr::{memchr2, memrchr};
use serde::Deserialize;

use super::LogStream;

/// The digits of a time up to its seconds.
const SECOND_BYTES: usize = 19;

/// What a line says besides its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) stream: LogStream,
    pub(super) time: Timestamp,
    /// Where in the text that was given the entry's text is, and where its attributes are as JSON.
    pub(super) text: Range<usize>,
    pub(super) attributes: Range<usize>,
}

/// Reads lines; remembers the last second, since most entries are of the same one as the entry before.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    second_text: [u8; SECOND_BYTES],
    second: i64,
}

impl Decoder {
    /// Appends the text of an entry and its attributes to `out`. Nothing is appended, and none returned, when the line
    /// is no entry. `line` is without its newline.
    pub(super) fn decode(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Decoded> {
        let start = out.len();
        let decoded = self.decode_usual(line, out);
        if decoded.is_some() {
            return decoded;
        }
        out.truncate(start);
        decode_any(line, out)
    }

    /// The time of an entry, if it is one.
    pub(super) fn time(&mut self, line: &[u8]) -> Option<Timestamp> {
        match split_time(line).and_then(|(_, time)| self.parse_time(time)) {
            Some(time) => Some(time),
            None => decode_any(line, &mut Vec::new()).map(|decoded| decoded.time),
        }
    }

    fn decode_usual(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Decoded> {
        let (before_time, time) = split_time(line)?;
        let time = self.parse_time(time)?;
        let text_start = out.len();
        let rest = unescape(before_time.strip_prefix(br#"{"log":""#)?, out)?;
        let text_end = out.len();
        let rest = rest.strip_prefix(br#","stream":"std"#)?;
        let (stream, rest) = match (rest.strip_prefix(br#"out""#), rest.strip_prefix(br#"err""#)) {
            (Some(rest), _) => (LogStream::Stdout, rest),
            (None, Some(rest)) => (LogStream::Stderr, rest),
            (None, None) => return None,
        };
        if !rest.is_empty() {
            out.extend_from_slice(rest.strip_prefix(br#","attrs":"#)?);
        }
        Some(Decoded { stream, time, text: text_start..text_end, attributes: text_end..out.len() })
    }

    fn parse_time(&mut self, text: &[u8]) -> Option<Timestamp> {
        let (second, fraction) = text.split_first_chunk::<SECOND_BYTES>()?;
        let Some(nanoseconds) = parse_fraction(fraction) else {
            return std::str::from_utf8(text).ok()?.parse().ok();
        };
        if *second != self.second_text {
            let second_text = format!("{}Z", std::str::from_utf8(second).ok()?);
            self.second = second_text.parse::<Timestamp>().ok()?.as_second();
            self.second_text = *second;
        }
        // Before 1970 the nanoseconds go backward; nothing was logged then.
        let time = Timestamp::new(self.second, 0).ok()?;
        time.checked_add(jiff::SignedDuration::from_nanos(nanoseconds)).ok()
    }
}

/// The time of an entry, if it is one.
pub(super) fn time_of(line: &[u8]) -> Option<Timestamp> {
    Decoder::default().time(line)
}

/// A line that ends with its time: what is before it, and the time.
fn split_time(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(br#""}"#)?;
    let quote = memrchr(b'"', line)?;
    let before = line[..=quote].strip_suffix(br#","time":""#)?;
    Some((before, &line[quote + 1..]))
}

/// `.123Z`, or `Z`; at most nine digits.
fn parse_fraction(text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if digits.is_empty() {
        return Some(0);
    }
    let digits = digits.strip_prefix(b".").filter(|digits| (1..=9).contains(&digits.len()))?;
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = *digits.get(place).unwrap_or(&b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        nanoseconds = nanoseconds * 10 + i64::from(digit - b'0');
    }
    Some(nanoseconds)
}

/// Appends what a JSON string stands for, and returns what comes after its closing quote.
fn unescape<'a>(mut json: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let special = memchr2(b'"', b'\\', json)?;
        out.extend_from_slice(&json[..special]);
        let (&byte, rest) = json[special..].split_first()?;
        if byte == b'"' {
            return Some(rest);
        }
        let (&kind, rest) = rest.split_first()?;
        json = rest;
        match kind {
            b'"' | b'\\' | b'/' => out.push(kind),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'u' => {
                let (character, rest) = unescape_unicode(rest)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                json = rest;
            }
            _ => return None,
        }
    }
}

/// The digits after `\u`, and those of the second half of a pair.
fn unescape_unicode(json: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = hex_unit(json)?;
    let second = rest.strip_prefix(br"\u").and_then(hex_unit);
    if let Some((second, rest)) = second
        && let Some(Ok(character)) = char::decode_utf16([first, second]).next()
        && character.len_utf16() == 2
    {
        return Some((character, rest));
    }
    // Half a pair is no character.
    Some((char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), rest))
}

fn hex_unit(json: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = json.split_first_chunk::<4>()?;
    let mut unit = 0;
    for &digit in digits {
        unit = unit << 4 | u16::try_from(char::from(digit).to_digit(16)?).ok()?;
    }
    Some((unit, rest))
}

/// An entry in any order and spelling that JSON allows.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default, borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    time: Timestamped,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

struct Timestamped(Timestamp);

impl<'de> Deserialize<'de> for Timestamped {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Timestamped).map_err(serde::de::Error::custom)
    }
}

fn decode_any(line: &[u8], out: &mut Vec<u8>) -> Option<Decoded> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let stream = LogStream::ALL.into_iter().find(|stream| stream.name() == line.stream)?;
    let attributes = line.attrs.map(|attrs| serde_json::to_vec(&attrs)).transpose().ok()?;
    let text_start = out.len();
    out.extend_from_slice(line.log.as_bytes());
    let text_end = out.len();
    out.extend_from_slice(&attributes.unwrap_or_default());
    Some(Decoded { stream, time: line.time.0, text: text_start..text_end, attributes: text_end..out.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::logs::encode::Encoder;
    use crate::logs::stamp::stamp_text;

    fn decode(line: &str) -> Option<(String, LogStream, String, String)> {
        let mut out = b"before".to_vec();
        let decoded = Decoder::default().decode(line.as_bytes(), &mut out);
        if decoded.is_none() {
            assert_eq!(out, b"before");
        }
        let decoded = decoded?;
        let part = |range: &Range<usize>| String::from_utf8(out[range.clone()].to_vec()).unwrap();
        let time = format!("{:.9}", decoded.time);
        Some((part(&decoded.text), decoded.stream, time, part(&decoded.attributes)))
    }

    #[test]
    fn entries_of_docker_are_read() {
        let usual = r#"{"log":"a\u003cb\u0009\"\\\r\n","stream":"stderr","time":"2026-11-24T08:00:00.5Z"}"#;
        let expected = (
            "a<b\t\"\\\r\n".to_owned(),
            LogStream::Stderr,
            "2026-11-24T08:00:00.500000000Z".to_owned(),
            String::new(),
        );
        assert_eq!(decode(usual), Some(expected));
        let with_attributes =
            r#"{"log":"x","stream":"stdout","attrs":{"a":"b"},"time":"2026-11-24T08:00:00Z"}"#;
        assert_eq!(decode(with_attributes).unwrap().3, r#"{"a":"b"}"#);
        let without_text = r#"{"stream":"stdout","time":"2026-11-24T08:00:00Z"}"#;
        assert_eq!(decode(without_text).unwrap().0, "");
        let another_order = r#" {"time":"2026-11-24T09:00:00.25+01:00", "stream":"stdout", "attrs":{"k":"v"}, "log":"x\n", "more":[1]}"#;
        assert_eq!(
            decode(another_order),
            Some((
                "x\n".to_owned(),
                LogStream::Stdout,
                "2026-11-24T08:00:00.250000000Z".to_owned(),
                r#"{"k":"v"}"#.to_owned()
            ))
        );
        let pairs = r#"{"log":"\ud83d\ude00\ud83dx\u20ac","stream":"stdout","time":"2026-11-24T08:00:00Z"}"#;
        assert_eq!(decode(pairs).unwrap().0, "\u{1f600}\u{fffd}x\u{20ac}");
    }

    #[test]
    fn garbage_is_no_entry() {
        for line in [
            "",
            "{",
            "hello",
            "{}",
            r#"{"log":"x","stream":"stdin","time":"2026-11-24T08:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout","time":"yesterday"}"#,
            r#"{"log":"x\","stream":"stdout","time":"2026-11-24T08:00:00Z"}"#,
            r#"{"log":"\u12","stream":"stdout","time":"2026-11-24T08:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout""#,
            "\0\0\0\0",
        ] {
            assert_eq!(decode(line), None, "{line}");
        }
    }

    #[test]
    fn the_time_of_an_entry_is_found_without_its_text() {
        let line = br#"{"log":"x","stream":"stdout","time":"2026-11-24T08:00:00.000000001Z"}"#;
        assert_eq!(time_of(line).unwrap().as_nanosecond(), 1_795_507_200_000_000_001);
        assert_eq!(time_of(b"garbage"), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in any::<String>(), time_ns in any::<i64>(), attributes in any::<bool>()) {
            let attributes = if attributes { r#"{"a":"\"x\""}"# } else { "" };
            let mut line = Vec::new();
            Encoder::new(attributes).encode(&mut line, LogStream::Stderr, text.as_bytes(), &stamp_text(time_ns));
            let line = String::from_utf8(line).unwrap();
            let decoded = decode(line.strip_suffix('\n').unwrap()).unwrap();
            let time = String::from_utf8(stamp_text(time_ns).to_vec()).unwrap();
            prop_assert_eq!(decoded, (text, LogStream::Stderr, time, attributes.to_owned()));
        }

        #[test]
        fn any_line_is_read_as_serde_reads_it(line in "[{}\":,a\\\\u0logstreamtime]{0,60}") {
            let mut out = Vec::new();
            let fast = Decoder::default().decode(line.as_bytes(), &mut out);
            let mut slow_out = Vec::new();
            prop_assert_eq!(fast, decode_any(line.as_bytes(), &mut slow_out));
        }
    }
}
