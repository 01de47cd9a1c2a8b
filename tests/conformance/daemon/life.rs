//! A container's life over the API, also when the daemon is killed.

use std::time::Duration;

use capsid_api::client::Client;
use capsid_tests::Daemon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::*;

#[tokio::test]
async fn a_stopped_container_starts_again_with_what_it_wrote() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    create(&client, "web", "echo x >> /count; wc -l < /count; exit 3", json!({})).await;
    for lines in ["1\n", "1\n2\n"] {
        assert_eq!(status(client.post("/containers/web/start").send().await), 204);
        assert_eq!(wait(&client, "web").await, 3);
        assert_eq!(logs(&client, "web").await, lines);
    }
    let document = inspect(&client, "web").await;
    assert_eq!((&document["State"]["Status"], &document["State"]["ExitCode"]), (&json!("exited"), &json!(3)));
    assert_eq!(status(client.delete("/containers/web").send().await), 204);
    assert_eq!(status(client.get("/containers/web/json").send().await), 404);
}

#[tokio::test]
async fn requests_mean_what_dockers_mean_in_each_phase() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let post = async |verb: &str| status(client.post(format!("/containers/web/{verb}")).send().await);
    create(&client, "web", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done", json!({})).await;
    assert_eq!((post("stop").await, post("pause").await, post("kill").await), (304, 409, 409));
    assert_eq!((post("start").await, post("start").await), (204, 304));
    assert_eq!(status(client.delete("/containers/web").send().await), 409);
    assert_eq!((post("pause").await, post("pause").await), (204, 409));
    assert_eq!(inspect(&client, "web").await["State"]["Status"], "paused");
    assert_eq!((post("unpause").await, post("restart").await), (204, 204));
    // The signal means nothing to a first process that has not set its trap yet.
    await_log(&client, "web", "ready\nready\n").await;
    assert_eq!((post("pause").await, post("stop").await), (204, 204), "one that is paused can be stopped");
    assert_eq!(inspect(&client, "web").await["State"]["ExitCode"], 9);
    assert_eq!(status(client.delete("/containers/web").flag("force", true).send().await), 204);
}

#[tokio::test]
async fn no_byte_and_no_exit_code_is_lost_when_the_daemon_is_killed() {
    let mut daemon = Daemon::start().await;
    let script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; done; printf end; exit 7";
    run(&daemon.client(), "counter", script).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        daemon.kill_and_restart();
    }
    let client = daemon.client();
    assert_eq!(wait(&client, "counter").await, 7);
    let mut expected: String = (1..=4000).map(|number| format!("{number}\n")).collect();
    expected.push_str("end");
    let printed = logs(&client, "counter").await;
    assert!(printed == expected, "{} bytes instead of {}", printed.len(), expected.len());
}

#[tokio::test]
async fn a_container_that_ends_while_there_is_no_daemon_is_taken_up_with_its_end() {
    let mut daemon = Daemon::start().await;
    run(&daemon.client(), "brief", "sleep 1; echo bye; exit 4").await;
    daemon.kill();
    sleep(Duration::from_secs(2)).await;
    daemon.restart();
    let client = daemon.client();
    assert_eq!(wait(&client, "brief").await, 4);
    assert_eq!(logs(&client, "brief").await, "bye\n");
    assert_eq!(inspect(&client, "brief").await["State"]["Error"], "");
}

#[tokio::test]
async fn an_exec_goes_on_without_its_daemon_and_keeps_its_exit_code() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client();
    run(&client, "web", "sleep 1000").await;
    let body = json!({ "Cmd": ["sh", "-c", "sleep 2; exit 5"] });
    let made = client.post("/containers/web/exec").json(&body).send().await.unwrap();
    let id = made.json::<Value>().await.unwrap()["Id"].as_str().unwrap().to_owned();
    let start = format!("/exec/{id}/start");
    assert_eq!(status(client.post(&start).json(&json!({ "Detach": true })).send().await), 200);
    assert_eq!(status(client.post(&start).json(&json!({ "Detach": true })).send().await), 409);
    daemon.kill_and_restart();
    let client = daemon.client();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.get(format!("/exec/{id}/json")).send().await.unwrap();
        let document: Value = answer.json().await.unwrap();
        if document["Running"] == false {
            assert_eq!(document["ExitCode"], 5);
            break;
        }
        assert!(Instant::now() < deadline, "{document}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_paused_container_is_taken_over_paused() {
    let mut daemon = Daemon::start().await;
    run(&daemon.client(), "web", "sleep 1000").await;
    assert_eq!(status(daemon.client().post("/containers/web/pause").send().await), 204);
    daemon.kill_and_restart();
    let client = daemon.client();
    assert_eq!(inspect(&client, "web").await["State"]["Status"], "paused");
    assert_eq!(status(client.post("/containers/web/unpause").send().await), 204);
    assert_eq!(status(client.post("/containers/web/kill").send().await), 204);
    assert_eq!(wait(&client, "web").await, 137);
}

#[tokio::test]
async fn a_killed_machine_is_seen_at_once_and_with_its_reason() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    run(&client, "web", "sleep 1000").await;
    let monitor = daemon.monitors()[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).unwrap();
    let document = await_state(&client, "web", "exited").await;
    assert_eq!(document["State"]["ExitCode"], 137);
    assert_eq!(document["State"]["Error"], "the machine ended: its monitor was killed");
}

#[tokio::test]
async fn a_machine_that_no_container_knows_is_ended_by_the_next_daemon() {
    let mut daemon = Daemon::start().await;
    run(&daemon.client(), "web", "sleep 1000").await;
    let monitor = daemon.monitors()[0];
    daemon.kill();
    assert!(is_alive(monitor), "it goes on without a daemon");
    std::fs::remove_dir_all(daemon.state().join("containers")).unwrap();
    daemon.restart();
    await_end_of(monitor).await;
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_a_machine_boots_leaves_none() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client();
    create(&client, "web", "sleep 1000", json!({})).await;
    let start = client.post("/containers/web/start");
    // Not awaited to its answer: nobody is told that it started.
    let _ = timeout(Duration::from_millis(150), start.send()).await;
    daemon.kill_and_restart();
    let client = daemon.client();
    let state = inspect(&client, "web").await["State"]["Status"].clone();
    assert!(state == "created" || state == "running", "{state}");
    assert_eq!(status(client.delete("/containers/web").flag("force", true).send().await), 204);
    assert!(daemon.monitors().is_empty());
}

#[tokio::test]
async fn twenty_requests_at_once_are_all_answered_and_end_in_a_right_state() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    create(&client, "web", "sleep 1000", json!({ "StopTimeout": 0 })).await;
    let verbs = ["start", "restart", "stop", "kill", "restart"];
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let (client, verb) = (daemon.client(), verbs[number % verbs.len()]);
            tokio::spawn(async move { status(client.post(format!("/containers/web/{verb}")).send().await) })
        })
        .collect();
    for request in requests {
        let answered = timeout(PATIENCE, request).await.expect("an answer in time").unwrap();
        assert!(matches!(answered, 204 | 304 | 409), "{answered}");
    }
    let removals: Vec<_> = (0..5)
        .map(|_| {
            let client = daemon.client();
            tokio::spawn(
                async move { status(client.delete("/containers/web").flag("force", true).send().await) },
            )
        })
        .collect();
    let mut removed = 0;
    for removal in removals {
        let answered = timeout(PATIENCE, removal).await.expect("an answer in time").unwrap();
        assert!(matches!(answered, 204 | 404), "{answered}");
        removed += usize::from(answered == 204);
    }
    assert!(removed > 0);
    assert_eq!(status(client.get("/containers/web/json").send().await), 404);
    assert!(daemon.monitors().is_empty());
}

#[tokio::test]
async fn an_attached_client_types_hears_and_detaches() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let more = json!({ "OpenStdin": true, "Tty": true });
    create(&client, "shell", "read line; echo got $line; sleep 1000", more).await;
    let attach = client.post("/containers/shell/attach");
    let attach = attach.flag("stream", true).flag("stdin", true).flag("stdout", true);
    let mut session = attach.upgrade().await.unwrap();
    assert_eq!(status(client.post("/containers/shell/start").send().await), 204);
    session.sender.send(b"words\n").await.unwrap();
    let mut heard = String::new();
    while !heard.contains("got words") {
        let piece = timeout(PATIENCE, session.receiver.receive()).await.expect("in time").unwrap();
        assert!(!piece.is_empty(), "the session ended after {heard:?}");
        heard.push_str(&String::from_utf8_lossy(&piece));
    }
    session.sender.send(b"\x10\x11").await.unwrap();
    while !timeout(PATIENCE, session.receiver.receive()).await.expect("an end").unwrap().is_empty() {}
    assert_eq!(inspect(&client, "shell").await["State"]["Status"], "running");
}

#[tokio::test]
async fn a_container_that_fails_is_restarted_as_often_as_its_policy_says() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let policy = json!({ "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 2 } });
    create(&client, "web", "exit 1", json!({ "HostConfig": policy })).await;
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let document = await_state(&client, "web", "exited").await;
        if document["RestartCount"] == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", document["State"]);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_health_check_tells_a_sick_container_also_under_the_next_daemon() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client();
    let second: i64 = 1_000_000_000;
    let check = json!({ "Test": ["CMD-SHELL", "test -e /well"], "Interval": second / 5, "Timeout": 20 * second, "Retries": 1 });
    create(&client, "web", "touch /well; sleep 1000", json!({ "Healthcheck": check })).await;
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    await_health(&client, "healthy").await;
    daemon.kill_and_restart();
    let client = daemon.client();
    let body = json!({ "Cmd": ["rm", "/well"] });
    let made = client.post("/containers/web/exec").json(&body).send().await.unwrap();
    let id = made.json::<Value>().await.unwrap()["Id"].as_str().unwrap().to_owned();
    let start = client.post(format!("/exec/{id}/start")).json(&json!({ "Detach": true }));
    assert_eq!(status(start.send().await), 200);
    await_health(&client, "unhealthy").await;
}

async fn await_health(client: &Client, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = inspect(client, "web").await["State"]["Health"].clone();
        if health["Status"] == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "not {wanted}: {health}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_state_folder_has_one_daemon_and_is_not_read_by_an_older_one() {
    let mut daemon = Daemon::start().await;
    let refusal = daemon.start_another();
    assert_eq!(refusal.status.code(), Some(i32::from(capsid_api::extensions::STATE_FOLDER_TAKEN)));
    assert!(refusal.complaint.contains("is in use by another process"), "{}", refusal.complaint);
    daemon.kill();
    std::fs::write(daemon.state().join("version"), "99").unwrap();
    let refusal = daemon.start_another();
    assert!(
        !refusal.status.success() && refusal.complaint.contains("has format 99"),
        "{}",
        refusal.complaint
    );
}

#[tokio::test]
async fn bad_requests_get_errors_in_dockers_shape_and_do_no_harm() {
    let daemon = Daemon::start().await;
    let long = "a".repeat(5 << 20);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (method, path, body, expected) in [
        ("GET", "/nothing", "", 404),
        ("GET", "/v1.51/info", "", 400),
        ("GET", "/v1.23/info", "", 400),
        ("GET", "/networks", "", 501),
        ("POST", "/volumes/create", "{}", 501),
        ("GET", "/containers/a%2Fb%00/json", "", 400),
        ("GET", "/containers/%ff/json", "", 400),
        ("GET", "/containers/..%2F..%2Fetc/json", "", 404),
        ("GET", "/containers/json?filters=%7B%22nope%22%3A%5B%5D%7D", "", 400),
        ("GET", "/containers/json?filters=%7B%22name%22%3A%5B%22(%22%5D%7D", "", 400),
        ("GET", "/containers/json?limit=x", "", 400),
        ("POST", "/containers/create", "", 400),
        ("POST", "/containers/create", "[]", 400),
        ("POST", "/containers/create", "{\"Image\":", 400),
        ("POST", "/containers/create", deep.as_str(), 400),
        ("POST", "/containers/create", long.as_str(), 413),
        ("POST", "/containers/create", "{\"Image\":\"nope\"}", 404),
        ("POST", "/containers/create?name=../x", "{\"Image\":\"busybox\"}", 400),
        ("POST", "/containers/create", "{\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":-1}}", 400),
        (
            "POST",
            "/containers/create",
            "{\"Image\":\"busybox\",\"HostConfig\":{\"NanoCpus\":99000000000}}",
            400,
        ),
        ("POST", "/containers/create", "{\"Image\":\"busybox\",\"HostConfig\":{\"Binds\":[\"/:/x\"]}}", 501),
    ] {
        let answer = raw(&daemon, method, path, body).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{method} {path}: {head}");
        let message: Value =
            serde_json::from_str(body.trim()).unwrap_or_else(|_| panic!("{method} {path}: {body}"));
        assert!(message["message"].as_str().is_some_and(|message| !message.is_empty()), "{message}");
    }
    assert_eq!(status(daemon.client().get("/_ping").send().await), 200);
}

/// One request in bytes of our own, and everything that comes back.
async fn raw(daemon: &Daemon, method: &str, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A body that is too long is refused before it is read to its end.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}
