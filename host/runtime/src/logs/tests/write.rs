use super::*;

#[test]
fn lines_become_entries_and_the_rest_waits() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"hel");
    assert_eq!(writer.offsets(), Offsets::default());
    assert_eq!(writer.received(LogStream::Stdout), 3);
    append(&mut writer, LogStream::Stderr, b"oops\nmore");
    append(&mut writer, LogStream::Stdout, b"lo\n\nx");
    assert_eq!(writer.offsets(), Offsets { stdout: 7, stderr: 5 });
    let expected = [("oops\n", "stderr"), ("hello\n", "stdout"), ("\n", "stdout")];
    let text = fs::read_to_string(log.path()).unwrap();
    let entries: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), expected.len());
    for (entry, (text, stream)) in entries.iter().zip(expected) {
        assert_eq!((entry["log"].as_str(), entry["stream"].as_str()), (Some(text), Some(stream)));
    }
    writer.finish_stream(LogStream::Stdout).unwrap();
    writer.finish_stream(LogStream::Stdout).unwrap();
    writer.finish_stream(LogStream::Stderr).unwrap();
    assert_eq!(writer.offsets(), Offsets { stdout: 8, stderr: 9 });
    assert_eq!(printed(&log.path()), ["hello\n\nx", "oops\nmore"]);
}

#[test]
fn what_was_given_already_is_skipped_and_a_gap_refused() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    writer.append(LogStream::Stdout, 0, b"one\ntw").unwrap();
    writer.append(LogStream::Stdout, 0, b"one\n").unwrap();
    writer.append(LogStream::Stdout, 2, b"e\ntwo\n").unwrap();
    let refused = writer.append(LogStream::Stdout, 9, b"x").unwrap_err();
    assert_eq!(refused.to_string(), "the log has stdout up to byte 8, and was given byte 9");
    assert_eq!(printed(&log.path())[0], "one\ntwo\n");
}

#[test]
fn another_run_counts_from_zero_in_the_same_file() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"first\nunfinished");
    writer.begin_run(1).unwrap();
    assert_eq!(writer.received(LogStream::Stdout), 16);
    writer.begin_run(2).unwrap();
    assert_eq!((writer.run(), writer.offsets()), (2, Offsets::default()));
    append(&mut writer, LogStream::Stdout, b"second\n");
    drop(writer);
    assert_eq!(log.writer().offsets().stdout, 7);
    assert_eq!(printed(&log.path())[0], "first\nunfinishedsecond\n");
}

#[test]
fn long_lines_are_split_as_docker_splits_them() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    let mut line = vec![b'x'; 40_000];
    line.push(b'\n');
    for chunk in line.chunks(1000) {
        append(&mut writer, LogStream::Stdout, chunk);
    }
    let text = fs::read_to_string(log.path()).unwrap();
    let lengths: Vec<usize> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().len())
        .collect();
    assert_eq!(lengths, [16_384, 16_384, 7233]);
}

#[test]
fn a_full_file_is_followed_by_the_next() {
    let log = TestLog::new(&[("max-size", "1k"), ("max-file", "3")]);
    let mut writer = log.running();
    for number in 0..100 {
        append(&mut writer, LogStream::Stdout, format!("line {number}\n").as_bytes());
    }
    let texts = file_texts(&log.path());
    assert_eq!(texts.len(), 3);
    assert!(texts[0].len() >= 1000 && texts[0].len() < 1100, "{}", texts[0].len());
    assert!(printed(&log.path())[0].ends_with("line 98\nline 99\n"));
    assert_eq!(writer.offsets().stdout, 790);
}

#[test]
fn one_file_begins_anew() {
    let log = TestLog::new(&[("max-size", "1k")]);
    let mut writer = log.running();
    // More than one file's worth at once.
    append(&mut writer, LogStream::Stdout, "0123456789\n".repeat(1000).as_bytes());
    assert_eq!(file_texts(&log.path()).len(), 1);
    assert!(fs::metadata(log.path()).unwrap().len() < 1200);
    assert_eq!(writer.offsets().stdout, 11_000);
}

#[test]
fn full_files_are_compressed() {
    let log = TestLog::new(&[("max-size", "10k"), ("max-file", "4"), ("compress", "true")]);
    let mut writer = log.running();
    for number in 0..1000 {
        append(&mut writer, LogStream::Stdout, format!("line {number}\n").as_bytes());
        writer.finish_compression();
    }
    for number in 1..4 {
        assert!(log.folder.path().join(format!("id-json.log.{number}.gz")).exists());
        assert!(!log.folder.path().join(format!("id-json.log.{number}")).exists());
    }
    assert!(!log.folder.path().join("id-json.log.4.gz").exists());
    let printed = &printed(&log.path())[0];
    let first: u32 = printed.lines().next().unwrap().strip_prefix("line ").unwrap().parse().unwrap();
    let expected: String = (first..1000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(*printed, expected);
}

#[test]
fn an_unrecorded_end_is_cut_off() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\n");
    drop(writer);
    let whole = fs::read(log.path()).unwrap();
    for extra in [&b"{\"log\":\"tw"[..], &whole] {
        fs::write(log.path(), [&whole, extra].concat()).unwrap();
        assert_eq!(log.writer().offsets().stdout, 4);
        assert_eq!(fs::read(log.path()).unwrap(), whole);
    }
    // A file that somebody cut in the middle of a line goes on after the last whole one.
    fs::write(log.path(), &whole[..whole.len() - 3]).unwrap();
    let mut writer = log.writer();
    append(&mut writer, LogStream::Stdout, b"two\n");
    assert_eq!(printed(&log.path())[0], "two\n");
}

#[test]
fn a_log_without_its_position_goes_on_after_its_last_whole_line() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\ntwo\n");
    drop(writer);
    fs::remove_file(log.folder.path().join("id-json.log.position")).unwrap();
    let mut text = fs::read(log.path()).unwrap();
    text.extend_from_slice(b"{\"log");
    fs::write(log.path(), text).unwrap();
    let mut writer = log.running();
    assert_eq!(writer.offsets(), Offsets::default());
    append(&mut writer, LogStream::Stdout, b"three\n");
    assert_eq!(printed(&log.path())[0], "one\ntwo\nthree\n");
}

#[test]
fn a_file_that_is_emptied_by_others_goes_on_from_there() {
    let log = TestLog::new(&[]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"one\ntwo\n");
    File::options().write(true).truncate(true).open(log.path()).unwrap();
    append(&mut writer, LogStream::Stdout, b"three\n");
    assert_eq!(printed(&log.path())[0], "three\n");
    assert_eq!(writer.offsets().stdout, 14);
    drop(writer);
    assert_eq!(log.writer().offsets().stdout, 14);
}

#[test]
fn without_a_driver_only_offsets_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig::parse("none", &BTreeMap::new()).unwrap();
    let open = || LogWriter::open(&log_in(folder.path()), &config, &LogAttributes::default()).unwrap();
    let mut writer = open();
    writer.begin_run(1).unwrap();
    append(&mut writer, LogStream::Stdout, b"hello\nthere");
    writer.append(LogStream::Stdout, 6, b"there").unwrap();
    writer.finish_stream(LogStream::Stdout).unwrap();
    drop(writer);
    let writer = open();
    assert_eq!((writer.run(), writer.offsets()), (1, Offsets { stdout: 11, stderr: 0 }));
    assert!(!log_in(folder.path()).exists());
    let refused = LogReader::open(&writer.position(), LogQuery::default()).unwrap_err();
    assert_eq!(refused.to_string(), "configured logging driver does not support reading");
}

#[test]
fn after_a_full_disk_the_log_goes_on() {
    // A log whose files are where no file can be: what fails is the rotation.
    let log = TestLog::new(&[("max-size", "100"), ("max-file", "2")]);
    let mut writer = log.running();
    append(&mut writer, LogStream::Stdout, b"before\nbefore\n");
    let in_the_way = log.folder.path().join("id-json.log.1");
    fs::create_dir(&in_the_way).unwrap();
    fs::write(in_the_way.join("x"), "").unwrap();
    let chunk = b"one\ntwo\n";
    for _ in 0..3 {
        let offset = writer.received(LogStream::Stdout);
        assert!(writer.append(LogStream::Stdout, offset, chunk).is_err());
        assert_eq!(writer.received(LogStream::Stdout), 14);
    }
    fs::remove_dir_all(&in_the_way).unwrap();
    writer.append(LogStream::Stdout, 14, chunk).unwrap();
    assert_eq!(writer.offsets().stdout, 22);
    assert!(printed(&log.path())[0].ends_with("one\ntwo\n"));
}
