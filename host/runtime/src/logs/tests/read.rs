use jiff::Timestamp;

use super::*;

fn at(time_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time_ns)).unwrap()
}

const START_NS: i64 = 1_795_507_200_000_000_000;

/// A log whose entry N, for N from 0, is of second N after the start.
fn write_seconds(writer: &mut LogWriter, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let stream = if number % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr };
        let offset = writer.received(stream);
        let text = format!("{number}\n");
        writer.append_at_time(stream, offset, text.as_bytes(), START_NS + number * 1_000_000_000).unwrap();
    }
}

fn numbers(range: impl Iterator<Item = i64>) -> Vec<String> {
    range.map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn queries_choose_what_is_read() {
    for options in [
        vec![],
        vec![("max-size", "1k"), ("max-file", "1000")],
        vec![("max-size", "1k"), ("max-file", "1000"), ("compress", "true")],
    ] {
        let log = TestLog::new(&options);
        let mut writer = log.running();
        write_seconds(&mut writer, 0..100);
        writer.finish_compression();
        let all = LogQuery::default();
        let second = |number: i64| Some(at(START_NS + number * 1_000_000_000));
        let cases = [
            (all, numbers(0..100)),
            (LogQuery { stderr: false, ..all }, numbers((0..100).step_by(2))),
            (LogQuery { stdout: false, ..all }, numbers((1..100).step_by(2))),
            (LogQuery { tail: Some(0), ..all }, vec![]),
            (LogQuery { tail: Some(1), ..all }, numbers(99..100)),
            (LogQuery { tail: Some(30), ..all }, numbers(70..100)),
            (LogQuery { tail: Some(1000), ..all }, numbers(0..100)),
            (LogQuery { tail: Some(3), stdout: false, ..all }, numbers([97, 99].into_iter())),
            (LogQuery { since: second(95), ..all }, numbers(95..100)),
            (LogQuery { since: second(1000), ..all }, vec![]),
            (LogQuery { since: second(-5), ..all }, numbers(0..100)),
            (LogQuery { until: second(4), ..all }, numbers(0..5)),
            (LogQuery { since: second(40), until: second(42), ..all }, numbers(40..43)),
            (LogQuery { since: second(98), tail: Some(10), ..all }, numbers(98..100)),
        ];
        for position in [writer.position(), LogPosition::of_stopped(&log.path())] {
            for (query, expected) in &cases {
                let entries = read(&position, *query).await;
                assert_eq!(texts(&entries), *expected, "{query:?} of {options:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_log_that_is_not_there_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let position = LogPosition::of_stopped(&folder.path().join("no-folder").join("log"));
    assert_eq!(read(&position, LogQuery { follow: true, ..LogQuery::default() }).await, []);
    let position = LogPosition::of_stopped(&folder.path().join("log"));
    assert_eq!(read(&position, LogQuery { tail: Some(3), ..LogQuery::default() }).await, []);
}

#[tokio::test]
async fn lines_that_are_no_entries_are_passed_over_and_counted() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    write_seconds(&mut writer, 0..10);
    drop(writer);
    let mut text = b"hello\n\n".to_vec();
    text.extend(fs::read(log.path()).unwrap());
    text.extend_from_slice(&[0; 300_000]);
    text.extend_from_slice(
        b"\n{\"log\":\"last\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-24T09:00:00Z\"}\n{\"log",
    );
    fs::write(log.path(), text).unwrap();
    fs::remove_file(log.folder.path().join("id-json.log.position")).unwrap();
    let mut reader = LogReader::open(&LogPosition::of_stopped(&log.path()), LogQuery::default()).unwrap();
    let (mut entries, mut skipped) = (0, 0);
    while let Some(batch) = reader.next().await.unwrap() {
        entries += batch.entries().len();
        skipped += batch.skipped_lines();
    }
    assert_eq!((entries, skipped), (11, 3), "the torn end is not looked at");
}

#[tokio::test]
async fn a_clock_that_steps_back_hides_nothing_from_a_search() {
    let log = TestLog::new(&[("max-size", "300k"), ("max-file", "10")]);
    let mut writer = log.running();
    // Enough that a search halves.
    write_seconds(&mut writer, 10_000..13_000);
    write_seconds(&mut writer, 0..3_000);
    for position in [writer.position(), LogPosition::of_stopped(&log.path())] {
        let since = Some(at(START_NS + 12_990 * 1_000_000_000));
        let entries = read(&position, LogQuery { since, ..LogQuery::default() }).await;
        assert_eq!(texts(&entries), numbers(12_990..13_000));
    }
}

#[tokio::test]
async fn times_differ_even_within_a_chunk() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, "x\n".repeat(1000).as_bytes());
    drop(writer);
    let mut writer = log.writer();
    append(&mut writer, LogStream::Stdout, "x\n".repeat(1000).as_bytes());
    let mut reader = LogReader::open(&writer.position(), LogQuery::default()).unwrap();
    let mut times = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        times.extend(batch.entries().map(|entry| entry.time));
    }
    assert_eq!(times.len(), 2000);
    assert!(times.is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn a_half_done_rotation_is_read_once() {
    let log = TestLog::new(&[("max-size", "300"), ("max-file", "5")]);
    let mut writer = log.running();
    write_seconds(&mut writer, 0..11);
    let whole = read(&writer.position(), LogQuery::default()).await;
    // The newest file cannot be made, since a folder has its name once the old one moved away.
    let files = files::LogFiles::new(&log.path(), 5);
    files.shift().unwrap();
    fs::create_dir(log.path()).unwrap();
    let offset = writer.received(LogStream::Stdout);
    assert_eq!(read(&writer.position(), LogQuery::default()).await, whole);
    fs::remove_dir(log.path()).unwrap();
    writer.append(LogStream::Stdout, offset, b"more\n").unwrap();
}
