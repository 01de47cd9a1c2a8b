//! The process: command, environment, folder, user, exit code.

use capsid_tests::host;

#[test]
fn echo_prints_and_exits_0() {
    host().run(&[], &["busybox", "echo", "hello"]).finish().expect_code(0).expect_stdout("hello\n");
}

#[test]
fn exit_codes_pass_through() {
    host().shell(&[], "exit 3").finish().expect_code(3);
    host().shell(&[], "kill -9 $$").finish().expect_code(0);
    host().shell(&["--init"], "kill -9 $$").finish().expect_code(137);
    host().run(&[], &["busybox", "false"]).finish().expect_code(1);
}

#[test]
fn a_program_that_is_missing_exits_127() {
    host()
        .run(&[], &["busybox", "no-such-program"])
        .finish()
        .expect_code(127)
        .expect_stderr("exec: \"no-such-program\": executable file not found in $PATH");
    host()
        .run(&[], &["busybox", "/no/such/program"])
        .finish()
        .expect_code(127)
        .expect_stderr("no such file or directory");
}

#[test]
fn a_program_that_cannot_be_executed_exits_126() {
    host().run(&[], &["busybox", "/etc/passwd"]).finish().expect_code(126).expect_stderr("permission denied");
    host().run(&[], &["busybox", "/etc"]).finish().expect_code(126);
}

#[test]
fn the_environment_is_the_images_and_the_users() {
    let script = "echo $A-$B-$HOME-$HOSTNAME; env | grep -c ^PATH=";
    host()
        .shell(&["-e", "A=b c", "-e", "B", "--hostname", "box"], script)
        .env("B", "from the shell")
        .finish()
        .expect_code(0)
        .expect_stdout("b c-from the shell-/root-box\n1\n");
}

#[test]
fn an_environment_file_gives_way_to_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    std::fs::write(&file, "# comment\nA=file\nB=file\n").unwrap();
    host()
        .shell(&["--env-file", file.to_str().unwrap(), "-e", "A=flag"], "echo $A $B")
        .finish()
        .expect_code(0)
        .expect_stdout("flag file\n");
}

#[test]
fn a_working_folder_is_made_when_it_is_missing() {
    host().run(&["-w", "/tmp"], &["busybox", "pwd"]).finish().expect_code(0).expect_stdout("/tmp\n");
    host()
        .shell(&["-w", "/made/for/this", "-u", "1000"], "pwd; stat -c %u:%g:%a .")
        .finish()
        .expect_code(0)
        .expect_stdout("/made/for/this\n0:0:755\n");
}

#[test]
fn a_working_folder_that_is_a_file_is_refused() {
    host()
        .run(&["-w", "/etc/passwd"], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("not a directory");
    host()
        .run(&["-w", "relative"], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("needs to be an absolute path");
}

#[test]
fn users_and_groups_are_names_or_numbers() {
    let id = |user: &str, extra: &[&str]| {
        let options: Vec<&str> = ["-u", user].iter().chain(extra).copied().collect();
        host().shell(&options, "echo $(id -u) $(id -g) $(id -G)").finish().expect_code(0).stdout_text()
    };
    assert_eq!(id("1000:1000", &[]), "1000 1000 1000\n");
    assert_eq!(id("1000", &[]), "1000 0 0\n");
    assert_eq!(id("nobody", &[]).split(' ').next(), Some("65534"));
    assert_eq!(id("0:daemon", &["--group-add", "50"]).split_whitespace().last(), Some("50"));
    host()
        .run(&["-u", "stranger"], &["busybox", "true"])
        .finish()
        .expect_code(125)
        .expect_stderr("unable to find user stranger: no matching entries in passwd file");
}

#[test]
fn entrypoint_command_user_environment_and_folder_come_from_the_image() {
    host().load_python();
    let said = host().run(&[], &["python"]).finish().expect_code(0);
    assert!(!said.stdout_text().is_empty(), "{}", said.story());
    let script = "import os; print(os.getuid() != 0, os.getcwd())";
    host()
        .run(&["--entrypoint", "python3"], &["python", "-c", script])
        .finish()
        .expect_code(0)
        .expect_stdout("True /app\n");
}

#[test]
fn a_debian_image_runs() {
    host().load_debian();
    host()
        .run(&[], &["debian", "bash", "-c", "echo $BASH_VERSION | cut -d. -f1; dpkg --print-architecture"])
        .finish()
        .expect_code(0)
        .expect_stdout("5\namd64\n");
}

#[test]
fn the_process_is_number_1_and_sees_no_others() {
    host()
        .shell(&[], "echo $$; set -- /proc/[0-9]*; echo $#")
        .finish()
        .expect_code(0)
        .expect_stdout("1\n1\n");
}

#[test]
fn an_init_reaps_what_the_process_leaves() {
    // The orphan ends under the init; without one it would stay a zombie of process 1.
    let script = "(sleep 0.1 &); sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; cat /proc/1/comm";
    let said = host().shell(&["--init"], script).finish().expect_code(0).stdout_text();
    assert!(said.starts_with("0\n") && !said.contains("sh\n"), "{said}");
}

#[test]
fn the_host_name_is_in_all_its_places() {
    let script = "hostname; cat /etc/hostname; grep -c '^10[.].*box$' /etc/hosts; grep ^127.0.0.1 /etc/hosts";
    host()
        .shell(&["--hostname", "box", "--add-host", "db:10.0.0.9"], &format!("{script}; grep db /etc/hosts"))
        .finish()
        .expect_code(0)
        .expect_stdout("box\nbox\n1\n127.0.0.1\tlocalhost\n10.0.0.9\tdb\n");
}

#[test]
fn the_clock_is_the_hosts() {
    let guest: u64 = host()
        .run(&[], &["busybox", "date", "+%s"])
        .finish()
        .expect_code(0)
        .stdout_text()
        .trim()
        .parse()
        .unwrap();
    let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(here.abs_diff(guest) < 30, "guest {guest}, host {here}");
}

#[test]
fn timings_name_every_step_in_both_forms() {
    let steps = [
        "image-resolved",
        "writable-ready",
        "monitor-started",
        "machine-built",
        "guest-entered",
        "agent-start",
        "agent-ready",
        "root-prepared",
        "process-started",
        "first-byte",
        "process-exited",
        "ended",
    ];
    for format in ["table", "json"] {
        let said =
            host().run(&["--timings", "--format", format], &["busybox", "echo", "x"]).finish().expect_code(0);
        for step in steps {
            assert!(said.stderr().contains(step), "no {step} in {}", said.story());
        }
    }
}
