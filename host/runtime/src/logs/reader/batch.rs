//! Entries as they are handed on: many at once, in one piece of memory.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;

use crate::logs::LogStream;
use crate::logs::decode::Decoded;
use crate::logs::stamp::stamp_text;

/// Some entries, in the log's order.
#[derive(Debug, Default)]
pub struct LogBatch {
    text: Vec<u8>,
    entries: Vec<Decoded>,
    skipped_lines: u64,
}

impl LogBatch {
    pub(super) fn text_mut(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    pub(super) fn push(&mut self, entry: Decoded) {
        self.entries.push(entry);
    }

    pub(super) fn skip_line(&mut self) {
        self.skipped_lines += 1;
    }

    /// Nothing to hand on, and nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.skipped_lines == 0
    }

    /// How many lines before or among these were no entries: somebody else wrote to the file, or damaged it.
    #[must_use]
    pub fn skipped_lines(&self) -> u64 {
        self.skipped_lines
    }

    /// The entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = LogEntry<'_>> {
        self.entries.iter().map(|entry| LogEntry {
            stream: entry.stream,
            time: entry.time,
            text: &self.text[entry.text.clone()],
            attributes: &self.text[entry.attributes.clone()],
        })
    }
}

/// A line of output, with its newline; or a part of a line, without one.
#[derive(Clone, Copy, Debug)]
pub struct LogEntry<'a> {
    /// Which output it was.
    pub stream: LogStream,
    /// When it was read from the container.
    pub time: Timestamp,
    /// What was printed.
    pub text: &'a [u8],
    attributes: &'a [u8],
}

impl LogEntry<'_> {
    /// The attributes that the log's options asked for when it was written.
    #[must_use]
    pub fn attributes(&self) -> BTreeMap<String, String> {
        serde_json::from_slice(self.attributes).unwrap_or_default()
    }

    /// Appends the entry as `GET /containers/{id}/logs` gives it, without the header of a multiplexed stream: its
    /// time, if wanted, and its attributes, if wanted, come before its text. As with Docker, that is so for each part
    /// of a line.
    pub fn write_to(&self, out: &mut Vec<u8>, timestamps: bool, details: bool) {
        if timestamps {
            write_time(self.time, out);
            out.push(b' ');
        }
        if details {
            let attributes = self.attributes();
            for (index, (key, value)) in attributes.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                query_escape(key, out);
                out.push(b'=');
                query_escape(value, out);
            }
            out.push(b' ');
        }
        out.extend_from_slice(self.text);
    }
}

fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    match i64::try_from(time.as_nanosecond()) {
        Ok(time_ns) => out.extend_from_slice(&stamp_text(time_ns)),
        Err(_) => out.extend_from_slice(format!("{time:.9}").as_bytes()),
    }
}

/// As Go's `url.QueryEscape`.
fn query_escape(text: &str, out: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => {
                let mut escaped = String::new();
                // Writing to a string does not fail.
                let _ = write!(escaped, "%{byte:02X}");
                out.extend_from_slice(escaped.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::decode::Decoder;

    fn rendered(line: &[u8], timestamps: bool, details: bool) -> String {
        let mut batch = LogBatch::default();
        let entry = Decoder::default().decode(line, batch.text_mut()).unwrap();
        batch.push(entry);
        let mut out = Vec::new();
        batch.entries().next().unwrap().write_to(&mut out, timestamps, details);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_and_attributes_come_before_the_text() {
        let line =
            br#"{"log":"x\n","stream":"stdout","attrs":{"b":"2 =","a":"1"},"time":"2026-11-24T08:00:00.5Z"}"#;
        assert_eq!(rendered(line, false, false), "x\n");
        assert_eq!(rendered(line, true, false), "2026-11-24T08:00:00.500000000Z x\n");
        assert_eq!(rendered(line, true, true), "2026-11-24T08:00:00.500000000Z a=1,b=2+%3D x\n");
        let bare = br#"{"log":"x\n","stream":"stdout","time":"2026-11-24T08:00:00.5Z"}"#;
        assert_eq!(rendered(bare, false, true), " x\n", "as Docker prints it");
    }
}
