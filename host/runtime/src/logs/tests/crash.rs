//! A crash at any moment: a copy of the folder as it was then is what the next process finds.

use proptest::prelude::*;

use super::*;

/// What a container prints, in the chunks in which it comes.
#[derive(Clone)]
struct Output {
    chunks: Vec<(LogStream, Vec<u8>)>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = self.chunks.iter().map(|(stream, bytes)| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            (stream.name(), bytes.len(), text)
        });
        formatter.debug_list().entries(texts).finish()
    }
}

impl Output {
    fn of(&self, stream: LogStream) -> Vec<u8> {
        self.chunks.iter().filter(|(of, _)| *of == stream).flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

fn outputs() -> impl Strategy<Value = Output> {
    let stream = prop_oneof![Just(LogStream::Stdout), Just(LogStream::Stderr)];
    let bytes = prop_oneof![
        8 => "[a-z\"<]{0,30}\n?".prop_map(String::into_bytes),
        4 => "([a-z]{0,12}\n){0,40}".prop_map(String::into_bytes),
        1 => (0_usize..40_000).prop_map(|length| vec![b'x'; length]),
        1 => Just("\u{20ac}".repeat(6000).into_bytes()),
    ];
    proptest::collection::vec((stream, bytes), 1..30).prop_map(|chunks| Output { chunks })
}

fn configs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    prop_oneof![
        Just(vec![]),
        // As many files as needed, so that nothing goes that was printed.
        Just(vec![("max-size", "300"), ("max-file", "1000")]),
        Just(vec![("max-size", "20k"), ("max-file", "1000"), ("compress", "true")]),
    ]
}

/// Gives the writer what it lacks of both streams, as the guest does after a crash, and ends them.
fn complete(writer: &mut LogWriter, output: &Output) {
    for stream in LogStream::ALL {
        let bytes = output.of(stream);
        let from = writer.offsets().of(stream);
        writer.append(stream, from, &bytes[usize::try_from(from).unwrap()..]).unwrap();
        writer.finish_stream(stream).unwrap();
        assert_eq!(writer.offsets().of(stream), bytes.len() as u64);
    }
}

fn assert_whole(log: &Path, output: &Output) {
    let expected = LogStream::ALL.map(|stream| String::from_utf8(output.of(stream)).unwrap());
    let printed = printed(log);
    assert!(
        printed == expected,
        "{} and {} bytes of {} and {}",
        printed[0].len(),
        printed[1].len(),
        expected[0].len(),
        expected[1].len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_or_doubled_whenever_it_crashes(output in outputs(), options in configs()) {
        let log = TestLog::new(&options);
        let mut writer = log.running();
        for (stream, bytes) in &output.chunks {
            append(&mut writer, *stream, bytes);
            let copy = copy_folder(log.folder.path(), &writer.position());
            let mut survivor =
                LogWriter::open(&log_in(copy.path()), &log.config, &LogAttributes::default()).unwrap();
            assert_eq!(survivor.offsets(), writer.offsets(), "acknowledged, and so recorded");
            complete(&mut survivor, &output);
            drop(survivor);
            assert_whole(&log_in(copy.path()), &output);
        }
        complete(&mut writer, &output);
        drop(writer);
        assert_whole(&log.path(), &output);
    }

    /// Between the write to the log and the one to the position, and with either of them torn.
    #[test]
    fn unrecorded_and_torn_writes_are_undone(
        output in outputs(),
        torn in any::<prop::sample::Index>(),
        tear_position in any::<bool>(),
    ) {
        let log = TestLog::new(&[]);
        let mut writer = log.running();
        let position = log.folder.path().join("id-json.log.position");
        for (stream, bytes) in &output.chunks {
            let position_before = fs::read(&position).unwrap();
            let length_before = fs::metadata(log.path()).unwrap().len();
            append(&mut writer, *stream, bytes);
            let copy = copy_folder(log.folder.path(), &writer.position());
            let copied_log = log_in(copy.path());
            let copied_position = copy.path().join("id-json.log.position");
            if tear_position {
                let mut record = fs::read(&position).unwrap();
                let start = record.iter().zip(&position_before).position(|(now, before)| now != before);
                let start = start.unwrap_or(record.len());
                let until = start + torn.index(record.len() - start + 1);
                record[until..].copy_from_slice(&position_before[until..]);
                fs::write(&copied_position, record).unwrap();
            } else {
                fs::write(&copied_position, &position_before).unwrap();
                let written = fs::metadata(log.path()).unwrap().len() - length_before;
                let kept = length_before + torn.index(usize::try_from(written).unwrap() + 1) as u64;
                File::options().write(true).open(&copied_log).unwrap().set_len(kept).unwrap();
            }
            let mut survivor =
                LogWriter::open(&copied_log, &log.config, &LogAttributes::default()).unwrap();
            complete(&mut survivor, &output);
            drop(survivor);
            assert_whole(&copied_log, &output);
        }
    }
}
