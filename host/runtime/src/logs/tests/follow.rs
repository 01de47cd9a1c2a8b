use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::*;

const FOLLOW: LogQuery =
    LogQuery { stdout: true, stderr: true, since: None, until: None, tail: None, follow: true };
const PATIENCE: Duration = Duration::from_secs(60);

async fn next_texts(reader: &mut LogReader) -> Option<Vec<String>> {
    let batch = timeout(PATIENCE, reader.next()).await.expect("entries or the end").unwrap()?;
    Some(batch.entries().map(|entry| String::from_utf8(entry.text.to_vec()).unwrap()).collect())
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_ends_with_the_run() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\n");
    let mut reader = LogReader::open(&writer.position(), FOLLOW).unwrap();
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["one\n"]);
    let early = timeout(Duration::from_millis(20), reader.next()).await;
    assert!(early.is_err(), "nothing has come");
    append(&mut writer, LogStream::Stderr, b"two\nthr");
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["two\n"]);
    writer.finish_stream(LogStream::Stderr).unwrap();
    writer.end_run();
    writer.begin_run(2).unwrap();
    append(&mut writer, LogStream::Stdout, b"of another run\n");
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["thr"]);
    assert_eq!(next_texts(&mut reader).await, None);
    assert_eq!(next_texts(&mut reader).await, None);
}

#[tokio::test]
async fn who_follows_what_does_not_run_gets_what_there_is() {
    let log = TestLog::new(&[]);
    let mut writer = log.writer();
    assert_eq!(read(&writer.position(), FOLLOW).await, []);
    writer.begin_run(1).unwrap();
    append(&mut writer, LogStream::Stdout, b"one\n");
    writer.end_run();
    assert_eq!(texts(&read(&writer.position(), FOLLOW).await), ["one\n"]);
    assert_eq!(texts(&read(&LogPosition::of_stopped(&log.path()), FOLLOW).await), ["one\n"]);
}

#[tokio::test]
async fn a_follower_ends_when_its_time_is_over_or_the_writer_gone() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\n");
    let until = Timestamp::now() + jiff::SignedDuration::from_millis(200);
    let entries =
        timeout(PATIENCE, read(&writer.position(), LogQuery { until: Some(until), ..FOLLOW })).await;
    assert_eq!(texts(&entries.unwrap()), ["one\n"]);
    assert!(Timestamp::now() >= until);

    let mut reader = LogReader::open(&writer.position(), LogQuery { tail: Some(0), ..FOLLOW }).unwrap();
    append(&mut writer, LogStream::Stdout, b"two\n");
    drop(writer);
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["two\n"]);
    assert_eq!(next_texts(&mut reader).await, None);
}

#[tokio::test]
async fn a_follower_goes_on_in_a_file_that_others_emptied() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\ntwo\n");
    let mut reader = LogReader::open(&writer.position(), FOLLOW).unwrap();
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["one\n", "two\n"]);
    File::options().write(true).truncate(true).open(log.path()).unwrap();
    append(&mut writer, LogStream::Stdout, b"three\n");
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["three\n"]);
}

#[tokio::test]
async fn a_follower_goes_from_file_to_file_though_they_are_deleted() {
    for max_file in ["1", "2"] {
        let log = TestLog::new(&[("max-size", "1k"), ("max-file", max_file)]);
        let mut writer = log.running();
        let mut reader = LogReader::open(&writer.position(), FOLLOW).unwrap();
        let mut expected = Vec::new();
        // Each file holds about ten entries, so this is many files and fewer than a reader may be behind.
        for number in 0..100 {
            let text = format!("line {number}\n");
            append(&mut writer, LogStream::Stdout, text.as_bytes());
            expected.push(text);
        }
        writer.end_run();
        let mut read = Vec::new();
        while let Some(texts) = next_texts(&mut reader).await {
            read.extend(texts);
        }
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_reader_that_is_far_behind_is_told_and_holds_no_files() {
    let log = TestLog::new(&[("max-size", "1k"), ("max-file", "2")]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"first\n");
    let mut reader = LogReader::open(&writer.position(), FOLLOW).unwrap();
    assert_eq!(next_texts(&mut reader).await.unwrap(), ["first\n"]);
    append(&mut writer, LogStream::Stdout, "0123456789\n".repeat(10_000).as_bytes());
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open() < 200, "{} files are open", open());
    let mut last = reader.next().await;
    while let Ok(Some(_)) = last {
        last = reader.next().await;
    }
    assert!(matches!(last, Err(LogReadError::LeftBehind(_))), "{last:?}");
    assert!(reader.next().await.unwrap().is_none());
}

/// Readers come, are killed at any point and come again, while the writer writes as fast as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_fast_writer_get_every_line_once() {
    const READERS: usize = 8;
    const LINES: usize = 300_000;
    let log = TestLog::new(&[("max-size", "4m"), ("max-file", "3")]);
    let mut writer = log.running();
    let position = writer.position();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let (position, done) = (position.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut whole_reads = 0;
                let mut life = number + 1;
                loop {
                    let last = done.load(Ordering::Relaxed);
                    let mut reader = LogReader::open(&position, FOLLOW).unwrap();
                    let mut next = None;
                    for batch_number in 0.. {
                        // Killed in the midst of a step, or between two.
                        if !last && batch_number > life {
                            let _ = timeout(Duration::from_micros(life as u64), reader.next()).await;
                            break;
                        }
                        match reader.next().await {
                            Ok(Some(batch)) => check(&batch, &mut next),
                            Ok(None) => {
                                whole_reads += 1;
                                break;
                            }
                            Err(LogReadError::LeftBehind(_)) => break,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    life = life * 7 % 101;
                    if last {
                        return whole_reads;
                    }
                }
            })
        })
        .collect();
    let writing = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for number in 0..LINES {
            text.push_str(&format!("line {number:010} of the fast writer's many\n"));
            if text.len() > 50_000 {
                append(&mut writer, LogStream::Stdout, text.as_bytes());
                text.clear();
            }
        }
        append(&mut writer, LogStream::Stdout, text.as_bytes());
        writer.end_run();
        done.store(true, Ordering::Relaxed);
        writer
    });
    let _writer = writing.await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "each reads to the end once it is left to");
    }
}

fn check(batch: &LogBatch, next: &mut Option<u64>) {
    assert_eq!(batch.skipped_lines(), 0);
    for entry in batch.entries() {
        let text = std::str::from_utf8(entry.text).unwrap();
        let number: u64 = text["line ".len()..][..10].parse().unwrap();
        if let Some(next) = *next {
            assert_eq!(number, next, "neither lost nor doubled");
        }
        *next = Some(number + 1);
    }
}
