//! Routes beside a container's life: files, processes, figures, images.

use capsid_api::client::{Client, RequestBody};
use capsid_tar::{Entry, EntryKind, TarWriter};
use capsid_tests::Daemon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

const TAR: &str = "application/x-tar";

/// An archive of one file.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    let entry = Entry {
        path: name.as_bytes().to_vec(),
        kind: EntryKind::File,
        mode: 0o640,
        uid: 0,
        gid: 0,
        mtime: Default::default(),
        size: content.len() as u64,
        xattrs: Vec::new(),
        sparse: None,
        data_offset: 0,
    };
    tar.entry(&entry).unwrap();
    tar.data(content).unwrap();
    tar.finish().unwrap()
}

async fn put(client: &Client, container: &str, path: &str, archive: Vec<u8>) -> u16 {
    let put = client.put(format!("/containers/{container}/archive")).query("path", path);
    status(put.body(TAR, RequestBody::Whole(archive.into())).send().await)
}

async fn get(client: &Client, container: &str, path: &str) -> Vec<u8> {
    let get = client.get(format!("/containers/{container}/archive")).query("path", path);
    get.send().await.unwrap().bytes().await.unwrap().to_vec()
}

async fn json_of(client: &Client, path: &str) -> Value {
    client.get(path.to_owned()).send().await.unwrap().json().await.unwrap()
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn files_are_reached_before_during_and_after_a_run() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client();
    create(&client, "web", "echo run > /tmp/made; cat /tmp/given; sleep 1000", json!({})).await;
    // Several at once share a machine, and a start waits for them.
    let (one, other) = tokio::join!(
        put(&client, "web", "/tmp", archive("given", b"from outside\n")),
        put(&client, "web", "/etc", archive("also", b"x")),
    );
    assert_eq!((one, other), (200, 200));
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    await_log(&client, "web", "from outside\n").await;
    assert!(holds(&get(&client, "web", "/tmp/made").await, b"run\n"));
    assert_eq!(status(client.post("/containers/web/kill").send().await), 204);
    assert_eq!(wait(&client, "web").await, 137);
    // Acknowledged is on the disk, whatever happens to the daemon.
    assert_eq!(put(&client, "web", "/root", archive("kept", b"kept\n")).await, 200);
    daemon.kill_and_restart();
    let client = daemon.client();
    assert!(holds(&get(&client, "web", "/root/").await, b"kept\n"));
    let changes = json_of(&client, "/containers/web/changes").await;
    let kind = |path: &str| {
        changes
            .as_array()
            .unwrap()
            .iter()
            .find(|change| change["Path"] == path)
            .map(|change| change["Kind"].clone())
    };
    assert_eq!((kind("/root/kept"), kind("/root"), kind("/bin")), (Some(json!(1)), Some(json!(0)), None));
    let export = client.get("/containers/web/export").send().await.unwrap().bytes().await.unwrap();
    assert!(holds(&export, b"from outside\n") && holds(&export, b"bin/busybox"));
    let head = client.head("/containers/web/archive").query("path", "/root/kept").send().await.unwrap();
    assert!(head.header("x-docker-container-path-stat").is_some());
}

#[tokio::test]
async fn files_that_cannot_be_reached_are_refused_by_name() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    run(&client, "web", "sleep 1000").await;
    let answer = |path: &'static str| client.get("/containers/web/archive").query("path", path).send();
    assert_eq!(status(answer("/nothing").await), 404);
    assert_eq!(status(client.get("/containers/web/archive").send().await), 400);
    assert_eq!(put(&client, "web", "/nothing", archive("a", b"a")).await, 404);
    assert_eq!(put(&client, "web", "/etc/passwd", archive("a", b"a")).await, 400);
    assert_eq!(put(&client, "web", "/tmp", b"no archive at all".repeat(100)).await, 400);
    assert_eq!(status(client.post("/containers/web/pause").send().await), 204);
    assert_eq!(status(answer("/etc").await), 409, "a paused one's agent is still, too");
    // A removal by force does not wait for whoever works on the files.
    create(&client, "idle", "true", json!({})).await;
    let slow = client.get("/containers/idle/export").send().await.unwrap();
    assert_eq!(status(client.delete("/containers/idle").flag("force", true).send().await), 204);
    drop(slow);
}

#[tokio::test]
async fn what_runs_and_what_it_uses_is_told() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let limits = json!({ "HostConfig": { "PidsLimit": 50, "Memory": 64 << 20 } });
    create(&client, "web", "sleep 1000 & echo ready; wait", limits).await;
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    await_log(&client, "web", "ready\n").await;

    let top = json_of(&client, "/containers/web/top").await;
    assert_eq!(top["Titles"], json!(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]));
    let rows: Vec<_> =
        top["Processes"].as_array().unwrap().iter().map(|row| (&row[1], &row[2], &row[7])).collect();
    assert!(
        rows.contains(&(&json!("1"), &json!("0"), &json!("sh -c sleep 1000 & echo ready; wait"))),
        "{top}"
    );
    assert!(rows.iter().any(|row| *row.1 == "1" && *row.2 == "sleep 1000"), "{top}");

    let stats = json_of(&client, "/containers/web/stats?stream=0").await;
    assert_eq!((&stats["pids_stats"]["current"], &stats["pids_stats"]["limit"]), (&json!(2), &json!(50)));
    assert_eq!(stats["memory_stats"]["limit"], 64 << 20);
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&stats["memory_stats"]["usage"]) > 0);
    let (now, before) = (&stats["cpu_stats"], &stats["precpu_stats"]);
    assert!(number(&now["system_cpu_usage"]) > number(&before["system_cpu_usage"]));

    let update = client.post("/containers/web/update").json(&json!({ "PidsLimit": 70, "Memory": 48 << 20 }));
    let answer: Value = update.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["Warnings"], Value::Null);
    let stats = json_of(&client, "/containers/web/stats?stream=0&one-shot=1").await;
    assert_eq!(
        (&stats["pids_stats"]["limit"], &stats["memory_stats"]["limit"]),
        (&json!(70), &json!(48 << 20))
    );
    let update = client.post("/containers/web/update").json(&json!({ "NanoCpus": 2_000_000_000_u64 }));
    let answer: Value = update.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["Warnings"].as_array().unwrap().len(), 1, "a machine of one processor stays so");

    assert_eq!(status(client.post("/containers/web/kill").send().await), 204);
    wait(&client, "web").await;
    assert_eq!(status(client.get("/containers/web/top").send().await), 409);
    assert_eq!(json_of(&client, "/containers/web/stats?stream=0").await["memory_stats"], json!({}));
}

#[tokio::test]
async fn images_get_names_are_saved_and_pruned() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    let tag = |name: &str, repository: &str, tag: &str| {
        client.post(format!("/images/{name}/tag")).query("repo", repository).query("tag", tag).send()
    };
    assert_eq!(status(tag("busybox", "example.org:5000/a/b", "c").await), 201);
    assert_eq!(status(tag("nothing", "a", "b").await), 404);
    assert_eq!(status(tag("busybox", "A", "b").await), 400);
    let image = json_of(&client, "/images/example.org:5000/a/b:c/json").await;
    assert_eq!(image["RepoTags"], json!(["busybox:latest", "example.org:5000/a/b:c"]));
    let history = json_of(&client, "/images/busybox/history").await;
    assert_eq!((&history[0]["Id"], &history[0]["Size"]), (&image["Id"], &image["Size"]));

    let saved = client.get("/images/get").query("names", "busybox").query("names", "example.org:5000/a/b:c");
    let saved = saved.send().await.unwrap().bytes().await.unwrap();
    create(&client, "user", "true", json!({})).await;
    let prune = |filters: &str| client.post("/images/prune").query("filters", filters).send();
    let pruned: Value = prune(r#"{"dangling":["false"]}"#).await.unwrap().json().await.unwrap();
    assert_eq!(pruned["ImagesDeleted"], json!([]), "a container needs it");
    let usage = json_of(&client, "/system/df").await;
    assert_eq!((&usage["LayersSize"], &usage["Images"][0]["Containers"]), (&image["Size"], &json!(1)));
    assert_eq!(usage["Containers"].as_array().unwrap().len(), 1);
    assert_eq!(status(client.delete("/containers/user").send().await), 204);
    let pruned: Value = prune(r#"{"dangling":{"false":true}}"#).await.unwrap().json().await.unwrap();
    assert!(pruned["SpaceReclaimed"].as_u64().unwrap() > 1 << 20, "{pruned}");
    assert_eq!(json_of(&client, "/images/json").await, json!([]));

    let load = client.post("/images/load").body(TAR, RequestBody::Whole(saved)).send().await.unwrap();
    let told = load.bytes().await.unwrap();
    assert!(holds(&told, b"Loaded image: example.org:5000/a/b:c"), "{}", String::from_utf8_lossy(&told));
    assert_eq!(json_of(&client, "/images/busybox/json").await["Id"], image["Id"]);
}

#[tokio::test]
async fn a_websocket_carries_a_terminal_both_ways() {
    let daemon = Daemon::start().await;
    let client = daemon.client();
    create(&client, "web", "read line; echo got $line", json!({ "Tty": true, "OpenStdin": true })).await;
    let mut socket = UnixStream::connect(daemon.socket()).await.unwrap();
    let request = "GET /v1.41/containers/web/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    // The key and its answer are RFC 6455's own example (section 1.3).
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert_eq!(status(client.post("/containers/web/start").send().await), 204);
    // A final binary frame of six bytes, masked with zeros.
    socket.write_all(b"\x82\x86\0\0\0\0hello\n").await.unwrap();
    let mut heard = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut heard)).await.expect("an end").unwrap();
    assert!(holds(&heard, b"got hello"), "{}", String::from_utf8_lossy(&heard));
    assert_eq!(wait(&client, "web").await, 0);
    assert_eq!(status(client.get("/containers/web/attach/ws").send().await), 400);
}
