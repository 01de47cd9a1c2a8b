//! Standard streams: intact, apart from each other, ended once.

use capsid_tests::host;

/// Enough to fill every buffer on the way many times.
const MANY_BYTES: usize = 32 << 20;

/// Bytes that no buffer's size divides evenly, and that repeat late.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from((index * 31 + index / 251 + index / 65_521) % 256).unwrap())
        .collect()
}

#[test]
fn stdin_reaches_the_process_and_its_end_does() {
    host().run(&["-i"], &["busybox", "cat"]).stdin("hi\n").finish().expect_code(0).expect_stdout("hi\n");
    host().run(&["-i"], &["busybox", "wc", "-c"]).stdin("").finish().expect_code(0).expect_stdout("0\n");
}

#[test]
fn without_i_the_process_reads_nothing() {
    host().run(&[], &["busybox", "wc", "-c"]).stdin("unread").finish().expect_code(0).expect_stdout("0\n");
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let said = host().shell(&[], "echo out; echo err >&2").finish().expect_code(0).expect_stdout("out\n");
    assert_eq!(said.stderr(), "err\n");
}

#[test]
fn many_bytes_come_out_as_they_went_in() {
    let bytes = pattern(MANY_BYTES);
    let said = host().run(&["-i"], &["busybox", "cat"]).stdin(bytes.clone()).finish().expect_code(0);
    // Not assert_eq: nobody wants to read either side.
    assert!(said.stdout() == bytes, "{} bytes came back of {}", said.stdout().len(), bytes.len());
}

#[test]
fn output_that_was_written_just_before_the_end_is_not_lost() {
    let said = host()
        .shell(&[], "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 9")
        .finish()
        .expect_code(9);
    assert_eq!((said.stdout().len(), said.stderr().len()), (300_000, 300_000));
}

#[test]
fn a_process_that_does_not_read_its_input_ends_all_the_same() {
    host().run(&["-i"], &["busybox", "true"]).stdin(pattern(4 << 20)).finish().expect_code(0);
}

#[test]
fn a_child_that_keeps_the_output_open_does_not_keep_the_container() {
    host().shell(&[], "sleep 1000 & echo done").finish().expect_code(0).expect_stdout("done\n");
}

#[test]
fn every_user_can_open_the_standard_streams_by_name() {
    host()
        .shell(&["-u", "1000"], "echo out >/dev/stdout; echo err >/dev/stderr; exit 4")
        .finish()
        .expect_code(4)
        .expect_stdout("out\n")
        .expect_stderr("err\n");
}

#[test]
fn output_that_nobody_reads_ends_the_run() {
    let mut command = host().run(&[], &["busybox", "yes"]).into_command();
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    drop(stdout);
    assert_eq!((&first, child.wait().unwrap().code()), (b"y\n", Some(141)));
}
