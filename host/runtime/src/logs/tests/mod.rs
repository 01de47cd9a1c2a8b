//! The log as a whole.

mod crash;
mod follow;
mod read;
mod speed;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// A folder with a log.
struct TestLog {
    folder: TempDir,
    config: LogConfig,
}

impl TestLog {
    fn new(options: &[(&str, &str)]) -> TestLog {
        let options: BTreeMap<String, String> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = LogConfig::parse("json-file", &options).unwrap();
        TestLog { folder: tempfile::tempdir().unwrap(), config }
    }

    fn path(&self) -> PathBuf {
        log_in(self.folder.path())
    }

    fn writer(&self) -> LogWriter {
        LogWriter::open(&self.path(), &self.config, &LogAttributes::default()).unwrap()
    }

    /// A writer whose container runs.
    fn running(&self) -> LogWriter {
        let mut writer = self.writer();
        writer.begin_run(1).unwrap();
        writer
    }
}

fn log_in(folder: &Path) -> PathBuf {
    folder.join("id-json.log")
}

/// Appends to the end of what the writer has.
fn append(writer: &mut LogWriter, stream: LogStream, bytes: &[u8]) {
    let offset = writer.received(stream);
    writer.append(stream, offset, bytes).unwrap();
}

/// All files of a log with their texts, from the oldest entry to the newest.
fn file_texts(log: &Path) -> Vec<Vec<u8>> {
    let files = files::LogFiles::new(log, 1);
    let mut texts: Vec<Vec<u8>> = files
        .list_rotated()
        .unwrap()
        .iter()
        .map(|file| {
            let bytes = fs::read(&file.path).unwrap();
            if !file.compressed {
                return bytes;
            }
            let mut text = Vec::new();
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut text).unwrap();
            text
        })
        .collect();
    texts.extend(fs::read(log));
    texts
}

/// What a log says that each stream printed, read with a parser that is not ours.
fn printed(log: &Path) -> [String; 2] {
    let mut streams = [String::new(), String::new()];
    for text in file_texts(log) {
        for line in String::from_utf8(text).unwrap().lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let stream = if entry["stream"] == "stdout" { 0 } else { 1 };
            streams[stream].push_str(entry["log"].as_str().unwrap());
        }
    }
    streams
}

/// What is on disk at this moment, as a crash would leave it.
fn copy_folder(folder: &Path, position: &LogPosition) -> TempDir {
    let position::Source::Written(shared) = &position.source else { panic!("nobody writes") };
    // A copy takes a while, in which no file may get another name.
    let _names = shared.lock_names();
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// Reads everything that a query gives: each entry's stream and text.
async fn read(position: &LogPosition, query: LogQuery) -> Vec<(LogStream, String)> {
    let mut reader = LogReader::open(position, query).unwrap();
    let mut entries = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        entries.extend(
            batch.entries().map(|entry| (entry.stream, String::from_utf8(entry.text.to_vec()).unwrap())),
        );
    }
    entries
}

fn texts(entries: &[(LogStream, String)]) -> Vec<&str> {
    entries.iter().map(|(_, text)| text.as_str()).collect()
}
