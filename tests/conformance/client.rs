//! `capsid` as a client of the daemon: starting it, leaving it, and the verbs that need nothing but it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use capsid_tests::{Call, Daemon, Home, TerminalCall, host};

/// How long anything may take that takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

fn capsid(words: &[&str]) -> Call {
    host().call().args(words)
}

/// `capsid run -d` of a shell script; the result is the identifier.
fn start(name: &str, script: &str) -> String {
    let run = ["run", "-d", "--engine", host().engine(), "--name", name, "busybox", "sh", "-c", script];
    let id = capsid(&run).finish().expect_code(0).stdout_text().trim().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    id
}

fn remove(name: &str) {
    capsid(&["rm", "-f", name]).finish().expect_code(0);
}

/// Asks until `wanted` is the answer.
fn await_state(container: &str, template: &str, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while host().inspect(container, template) != wanted {
        assert!(Instant::now() < deadline, "{container} is not {wanted}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_first_call_starts_the_daemon_and_all_others_find_it() {
    let home = Home::new();
    let calls: Vec<_> = (0..6).map(|_| home.call(host()).args(["images", "-q"]).start()).collect();
    for call in calls {
        call.finish().expect_code(0).expect_stdout("");
    }
    let daemons = home.daemons();
    assert_eq!(daemons.len(), 1, "{daemons:?}");
    home.call(host()).args(["ps", "-q"]).finish().expect_code(0);
    assert_eq!(home.daemons(), daemons);
    // It is in a session of its own: what ends this terminal's programs does not end it.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemons[0])).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, daemons[0].to_string());
}

#[test]
fn a_daemon_that_was_killed_is_started_again_with_its_containers() {
    let home = Home::new().with_busybox(host());
    let run = ["run", "-d", "--engine", host().engine(), "--name", "kept", "busybox", "sleep", "1000"];
    home.call(host()).args(run).finish().expect_code(0);
    let killed = home.daemons();
    for pid in &killed {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let listed = home.call(host()).args(["ps", "--format", "{{.Names}} {{.State}}"]).finish();
    listed.expect_code(0).expect_stdout("kept running\n");
    assert_ne!(home.daemons(), killed);
    home.call(host()).args(["rm", "-f", "kept"]).finish().expect_code(0).expect_stdout("kept\n");
}

#[test]
fn an_idle_daemon_ends_and_leaves_no_socket() {
    let home = Home::new();
    home.call(host()).arg("ps").finish().expect_code(0);
    let deadline = Instant::now() + Duration::from_secs(100);
    while !home.daemons().is_empty() {
        assert!(Instant::now() < deadline, "the daemon goes on: {}", home.log());
        sleep(Duration::from_millis(200));
    }
    home.call(host()).arg("ps").finish().expect_code(0);
}

#[tokio::test]
async fn a_daemon_that_is_named_is_not_started_and_one_that_is_there_is_used() {
    let home = Home::new();
    let nobody = home.folder().join("nobody.sock");
    let address = format!("unix://{}", nobody.display());
    let said = home.call(host()).args(["-H", &address, "ps"]).finish().expect_code(1);
    said.expect_stderr("Cannot connect to the capsid daemon at unix://").expect_stderr("nobody.sock");
    home.call(host())
        .args(["-H", "tcp://localhost:1", "--tlscacert", "/nowhere/ca.pem", "ps"])
        .finish()
        .expect_code(1)
        .expect_stderr("failed to read /nowhere/ca.pem");
    assert!(home.daemons().is_empty());
    let daemon = Daemon::start().await;
    let address = format!("unix://{}", daemon.socket().display());
    for variable in ["CAPSID_HOST", "DOCKER_HOST"] {
        let listed =
            home.call(host()).args(["images", "--format", "{{.Repository}}"]).env(variable, &address);
        listed.finish().expect_code(0).expect_stdout("busybox\n");
    }
    assert!(home.daemons().is_empty());
}

#[test]
fn a_container_in_the_background_lives_through_all_its_verbs() {
    let name = "client-life";
    let script = "trap 'echo bye; exit 4' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
    let id = start(name, script);
    await_state(name, "{{.State.Running}}", "true");
    let deadline = Instant::now() + PATIENCE;
    while capsid(&["logs", name]).finish().stdout_text() != "out\n" {
        assert!(Instant::now() < deadline, "no output");
    }
    let logs = capsid(&["logs", name]).finish().expect_code(0).expect_stdout("out\n");
    assert_eq!(logs.stderr(), "err\n");
    let stamped = capsid(&["logs", "-t", "-n", "1", &id[..12]]).finish().expect_code(0);
    assert!(stamped.stdout_text().len() + stamped.stderr().len() > 30, "{}", stamped.story());
    let exec = ["exec", "-i", "-e", "A=b", "-w", "/tmp", name, "sh", "-c", "cat; echo $A; pwd; exit 5"];
    capsid(&exec).stdin("in\n").finish().expect_code(5).expect_stdout("in\nb\n/tmp\n");
    capsid(&["pause", name]).finish().expect_code(0).expect_stdout(&format!("{name}\n"));
    assert_eq!(host().inspect(name, "{{.State.Status}}"), "paused");
    capsid(&["unpause", name]).finish().expect_code(0);
    capsid(&["rename", name, "client-other"]).finish().expect_code(0).expect_stdout("");
    capsid(&["stop", "client-other"]).finish().expect_code(0).expect_stdout("client-other\n");
    capsid(&["wait", "client-other"]).finish().expect_code(0).expect_stdout("4\n");
    let listed =
        capsid(&["ps", "-a", "-f", "name=client-other", "--format", "{{.ID}}|{{.State}}|{{.Command}}"])
            .finish();
    assert!(
        listed.stdout_text().starts_with(&format!("{}|exited|\"sh -c 'trap", &id[..12])),
        "{}",
        listed.story()
    );
    capsid(&["start", "-a", "client-other"]).start().await_output("out");
    await_state("client-other", "{{.State.Running}}", "true");
    capsid(&["kill", "-s", "KILL", "client-other"]).finish().expect_code(0);
    capsid(&["wait", "client-other"]).finish().expect_code(0).expect_stdout("137\n");
    capsid(&["rm", "client-other"]).finish().expect_code(0).expect_stdout("client-other\n");
    capsid(&["inspect", "client-other"])
        .finish()
        .expect_code(1)
        .expect_stdout("[]\n")
        .expect_stderr("No such object");
}

#[test]
fn prefixes_of_identifiers_are_enough_when_they_are_one_containers() {
    let ids: Vec<String> = (0..17)
        .map(|number| {
            let create = ["create", "--name", &format!("client-prefix-{number}"), "busybox", "true"];
            capsid(&create).finish().expect_code(0).stdout_text().trim().to_owned()
        })
        .collect();
    assert_eq!(host().inspect(&ids[0][..16], "{{.Id}}"), ids[0]);
    // Of seventeen, two begin with the same digit.
    let shared =
        ids.iter().map(|id| &id[..1]).find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1);
    let shared = shared.unwrap();
    let said = capsid(&["stop", shared]).finish().expect_code(1);
    said.expect_stderr(&format!(
        "Error response from daemon: Multiple IDs found with provided prefix: {shared}"
    ));
    let mut all = vec!["rm"];
    all.extend(ids.iter().map(String::as_str));
    capsid(&all)
        .finish()
        .expect_code(0)
        .expect_stdout(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
}

#[test]
fn a_failure_of_one_does_not_keep_the_others() {
    for name in ["client-one", "client-two"] {
        capsid(&["create", "--name", name, "busybox", "true"]).finish().expect_code(0);
    }
    let removed = capsid(&["rm", "client-one", "client-none", "client-two"]).finish().expect_code(1);
    let removed = removed.expect_stdout("client-one\nclient-two\n");
    assert_eq!(removed.stderr(), "Error response from daemon: No such container: client-none\n");
}

#[test]
fn formats_make_what_they_say_of_lists_and_things() {
    let name = "client-format";
    let create =
        ["create", "--name", name, "-l", "com.example=x", "-e", "A=b", "-m", "64m", "busybox", "sleep", "1"];
    capsid(&create).finish().expect_code(0);
    for (template, text) in [
        ("{{.Name}} {{.State.Status}}", "/client-format created"),
        ("{{json .Config.Cmd}}", "[\"sleep\",\"1\"]"),
        ("{{index .Config.Labels \"com.example\"}}", "x"),
        ("{{range .Config.Env}}{{if eq . \"A=b\"}}found{{end}}{{end}}", "found"),
        ("{{.HostConfig.Memory}}", "67108864"),
    ] {
        assert_eq!(host().inspect(name, template), text, "{template}");
    }
    let table =
        ["ps", "-a", "-f", "name=client-format", "--format", "table {{.Names}}\t{{.Label \"com.example\"}}"];
    let shown = capsid(&table).finish().expect_code(0);
    shown.expect_stdout("NAMES           com.example\nclient-format   x\n");
    let json = capsid(&["ps", "-a", "-f", "name=client-format", "--format", "json"]).finish().expect_code(0);
    let document: serde_json::Value = serde_json::from_slice(json.stdout()).unwrap();
    assert_eq!((&document["Names"], &document["State"]), (&name.into(), &"created".into()));
    let wrong = capsid(&["inspect", "-f", "{{.Nope}}", name]).finish().expect_code(1);
    wrong.expect_stderr("template parsing error: ").expect_stderr("map has no entry for key \"Nope\"");
    remove(name);
}

#[test]
fn input_that_ends_leaves_the_output_to_come() {
    let script = "cat >/dev/null; sleep 0.5; echo after";
    host().shell(&["-i"], script).stdin("x").finish().expect_code(0).expect_stdout("after\n");
    // Output alone: what is typed goes nowhere.
    host()
        .shell(&["-a", "stderr"], "echo out; echo err >&2")
        .finish()
        .expect_code(0)
        .expect_stdout("")
        .expect_stderr("err");
}

#[test]
fn the_keys_leave_a_container_running_and_attaching_finds_it() {
    let name = "client-detach";
    let run = ["run", "-it", "--engine", host().engine(), "--name", name, "busybox", "sh"];
    let mut terminal = TerminalCall::start(capsid(&run).into_command(), 24, 80);
    terminal.await_screen("/ # ");
    terminal.type_in("\u{10}\u{11}");
    assert_eq!(terminal.finish(), 0);
    assert_eq!(host().inspect(name, "{{.State.Status}}"), "running");
    let attach = ["attach", "--detach-keys", "ctrl-a,x", name];
    let mut terminal = TerminalCall::start(capsid(&attach).into_command(), 24, 80);
    terminal.type_in("echo $((6 * 7))\n");
    terminal.await_screen("42");
    terminal.type_in("\u{1}x");
    assert_eq!(terminal.finish(), 1);
    let exec = ["exec", "-it", name, "sh", "-c", "stty size; exit 6"];
    let mut terminal = TerminalCall::start(capsid(&exec).into_command(), 31, 97);
    terminal.await_screen("31 97");
    assert_eq!(terminal.finish(), 6);
    remove(name);
}

#[test]
fn an_identifier_is_written_where_it_was_asked_for_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("id");
    let file = file.to_str().unwrap();
    let made =
        capsid(&["create", "--cidfile", file, "busybox", "true"]).finish().expect_code(0).stdout_text();
    assert_eq!(std::fs::read_to_string(file).unwrap(), made.trim());
    let again = capsid(&["create", "--cidfile", file, "busybox", "true"]).finish().expect_code(125);
    again.expect_stderr("container ID file found");
    remove(made.trim());
}

#[test]
fn files_are_copied_both_ways() {
    let name = "client-copy";
    capsid(&["create", "--name", name, "busybox", "true"]).finish().expect_code(0);
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/file"), "content").unwrap();
    let to = |path: &str| format!("{name}:{path}");
    capsid(&["cp"]).arg(&tree).arg(to("/tmp")).finish().expect_code(0);
    capsid(&["cp"]).arg(tree.join("sub/file")).arg(to("/new")).finish().expect_code(0);
    capsid(&["cp", &to("/tmp/tree/."), "."]).arg("").finish().expect_code(125);
    let back = folder.path().join("back");
    capsid(&["cp", &to("/tmp/tree")]).arg(&back).finish().expect_code(0);
    assert_eq!(std::fs::read_to_string(back.join("sub/file")).unwrap(), "content");
    capsid(&["cp", &to("/new")]).arg(&back).finish().expect_code(0);
    assert_eq!(std::fs::read_to_string(back.join("new")).unwrap(), "content");
    let archive = capsid(&["cp", &to("/new"), "-"]).finish().expect_code(0);
    assert!(archive.stdout().windows(7).any(|window| window == b"content"));
    capsid(&["cp", &to("/none"), "/tmp"])
        .finish()
        .expect_code(1)
        .expect_stderr("Could not find the file /none in container");
    let changes = capsid(&["diff", name]).finish().expect_code(0).stdout_text();
    assert!(changes.contains("A /new\n") && changes.contains("C /tmp\n"), "{changes}");
    remove(name);
}
