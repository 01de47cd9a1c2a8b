//! Measures; run with `cargo test --release -p capsid-runtime logs -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS: usize = 2000;

fn chunk(line: &str) -> Vec<u8> {
    let mut chunk = line.repeat(CHUNK_BYTES / line.len() + 1).into_bytes();
    chunk.truncate(CHUNK_BYTES);
    chunk
}

fn report(what: &str, bytes: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} MB/s", bytes as f64 / seconds / 1e6);
}

#[test]
#[ignore = "measures"]
fn write_speed() {
    let lines = [
        ("64-byte lines", format!("{}\n", "x".repeat(63))),
        ("lines with colours and quotes", format!("\u{1b}[32m{}\u{1b}[0m \"quoted\"\n", "x".repeat(44))),
        ("text that is not ASCII", format!("{}\n", "\u{4e2d}".repeat(21))),
        ("1000-byte lines", format!("{}\n", "x".repeat(999))),
        ("lines of 4 bytes", "abc\n".to_owned()),
    ];
    for (what, line) in lines {
        let log = TestLog::new(&[("max-size", "100m"), ("max-file", "2")]);
        let mut writer = log.running();
        let chunk = chunk(&line);
        let started = Instant::now();
        let mut offset = 0;
        for _ in 0..CHUNKS {
            writer.append(LogStream::Stdout, offset, &chunk).unwrap();
            offset += chunk.len() as u64;
        }
        report(&format!("write, {what}"), CHUNKS * CHUNK_BYTES, started);
    }
}

#[tokio::test]
#[ignore = "measures"]
async fn read_speed() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    let chunk = chunk(&format!("{}\n", "x".repeat(63)));
    for _ in 0..CHUNKS {
        append(&mut writer, LogStream::Stdout, &chunk);
    }
    let started = Instant::now();
    let mut reader = LogReader::open(&writer.position(), LogQuery::default()).unwrap();
    let mut bytes = 0;
    while let Some(batch) = reader.next().await.unwrap() {
        bytes += batch.entries().map(|entry| entry.text.len()).sum::<usize>();
    }
    report("read, 64-byte lines", bytes, started);

    let started = Instant::now();
    let tail = read(&writer.position(), LogQuery { tail: Some(1000), ..LogQuery::default() }).await;
    println!("the last {} of {} bytes: {:?}", tail.len(), bytes, started.elapsed());
    let started = Instant::now();
    let since = Some(jiff::Timestamp::now());
    let since = read(&writer.position(), LogQuery { since, ..LogQuery::default() }).await;
    println!("the {} since now: {:?}", since.len(), started.elapsed());
}

#[test]
#[ignore = "measures"]
fn small_appends() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    let started = Instant::now();
    for _ in 0..200_000 {
        append(&mut writer, LogStream::Stdout, b"a line of its own\n");
    }
    println!("append of one line: {:?}", started.elapsed() / 200_000);
}
