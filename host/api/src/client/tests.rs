//! The client against servers that say what they are told to.

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;

/// A server that answers one connection after the other, and what it was asked.
struct Script {
    _folder: TempDir,
    socket: PathBuf,
    asked: JoinHandle<Vec<String>>,
}

fn client(script: &Script) -> Client {
    Client::new(Endpoint::Unix(script.socket.clone()))
}

/// Reads to the end of the request's headers, and of a body whose length is given.
async fn read_request(stream: &mut UnixStream) -> String {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{text}");
    }
}

fn serve(answers: Vec<Vec<u8>>) -> Script {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = tokio::spawn(async move {
        let (mut answers, mut asked) = (VecDeque::from(answers), Vec::new());
        while let Some(answer) = answers.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked.push(read_request(&mut stream).await);
            stream.write_all(&answer).await.unwrap();
        }
        asked
    });
    Script { _folder: folder, socket, asked }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_request_is_written_as_the_api_wants_it() {
    let script = serve(vec![answer("201 Created", "", r#"{"Id":"x"}"#)]);
    let path = format!("/containers/{}/rename", segment("a/b c"));
    let request = client(&script);
    let request = request.post(path).query("name", "x&y").flag("force", true).flag("link", false);
    let said: Value = request.json(&json!({ "A": 1 })).send().await.unwrap().json().await.unwrap();
    assert_eq!(said, json!({ "Id": "x" }));
    let asked = script.asked.await.unwrap().remove(0);
    assert!(
        asked.starts_with("POST /v1.50/containers/a%2Fb%20c/rename?name=x%26y&force=1 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("content-type: application/json") && asked.ends_with("\r\n\r\n{\"A\":1}"),
        "{asked}"
    );
}

#[tokio::test]
async fn refusals_carry_the_daemons_words() {
    let plain = answer("404 Not Found", "", "page not found\n");
    let script =
        serve(vec![answer("409 Conflict", "", r#"{"message":"it runs\n"}"#), plain, answer("500 X", "", "")]);
    let client = client(&script);
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(client.get("/x").send().await.unwrap_err());
    }
    let words: Vec<String> = said.iter().map(ToString::to_string).collect();
    let expected = ["it runs", "page not found", "Internal Server Error"];
    assert_eq!(words, expected.map(|text| format!("Error response from daemon: {text}")));
    assert_eq!(said[0].status(), Some(StatusCode::CONFLICT));
    assert!(said[1].is_not_found() && !said[1].is_unreachable());
}

#[tokio::test]
async fn an_older_daemon_is_spoken_to_in_its_version() {
    let refusal = r#"{"message":"client version 1.50 is too new. Maximum supported API version is 1.41"}"#;
    let script = serve(vec![
        answer("400 Bad Request", "", refusal),
        answer("200 OK", "Api-Version: 1.41\r\n", ""),
        answer("200 OK", "", "[]"),
    ]);
    let client = client(&script);
    assert_eq!(client.get("/containers/json").send().await.unwrap().bytes().await.unwrap(), "[]");
    assert_eq!(client.version().to_string(), "1.41");
    let asked = script.asked.await.unwrap();
    assert!(
        asked[1].starts_with("HEAD /_ping HTTP/1.1") && asked[2].starts_with("GET /v1.41/containers/json ")
    );
}

#[tokio::test]
async fn values_come_out_of_a_stream_however_it_is_cut() {
    let body = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = ["{\"a\":1}\r\n{\"a\"", ":2}", "{\"a\":3}\n", "{\"a\":"];
    let wire = chunks.iter().fold(body.to_vec(), |mut wire, chunk| {
        wire.extend(format!("{:x}\r\n{chunk}\r\n", chunk.len()).bytes());
        wire
    });
    let script = serve(vec![[wire, b"0\r\n\r\n".to_vec()].concat()]);
    let client = client(&script);
    let mut values = client.get("/events").send().await.unwrap().json_stream::<Value>();
    for number in 1..4 {
        assert_eq!(values.next().await.unwrap(), Some(json!({ "a": number })));
    }
    assert!(matches!(values.next().await, Err(ClientError::Malformed { .. })));
    assert_eq!(values.next().await.unwrap(), None);
}

#[tokio::test]
async fn an_upgraded_connection_ends_one_direction_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = read_request(&mut stream).await;
        let head = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut input = String::new();
        stream.read_to_string(&mut input).await.unwrap();
        stream.write_all(input.to_uppercase().as_bytes()).await.unwrap();
        asked
    });
    let client = Client::new(Endpoint::Unix(socket));
    let mut upgraded = client.post("/containers/x/attach").upgrade().await.unwrap();
    upgraded.sender.send(b"typed").await.unwrap();
    upgraded.sender.finish().await.unwrap();
    let mut seen = Vec::new();
    loop {
        let bytes = upgraded.receiver.receive().await.unwrap();
        if bytes.is_empty() {
            break;
        }
        seen.extend(bytes);
    }
    assert_eq!(String::from_utf8(seen).unwrap(), "early TYPED");
    let asked = server.await.unwrap();
    assert!(asked.contains("connection: Upgrade\r\n") && asked.contains("upgrade: tcp\r\n"), "{asked}");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_says_why() {
    let script =
        serve(vec![answer("409 Conflict", "", r#"{"message":"it is paused"}"#), answer("200 OK", "", "")]);
    let client = client(&script);
    let refused = client.post("/exec/x/start").upgrade().await.unwrap_err();
    assert_eq!(refused.to_string(), "Error response from daemon: it is paused");
    let refused = client.post("/exec/x/start").upgrade().await.unwrap_err();
    assert_eq!(refused.to_string(), "unable to upgrade to tcp, received 200 OK");
}

#[tokio::test]
async fn a_streamed_body_is_sent_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        stream.write_all(&answer("200 OK", "", "done")).await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    let client = Client::new(Endpoint::Unix(socket));
    let (sender, body) = RequestBody::stream();
    let producer = tokio::spawn(async move {
        for piece in ["one", "two"] {
            assert!(sender.send(Bytes::from_static(piece.as_bytes())).await);
        }
    });
    let said = client.post("/images/load").body("application/x-tar", body).send().await.unwrap();
    assert_eq!(said.bytes().await.unwrap(), "done");
    producer.await.unwrap();
    let asked = server.await.unwrap();
    assert!(asked.contains("transfer-encoding: chunked") && asked.contains("3\r\none\r\n"), "{asked}");
}

/// The daemon says why, and reads no more: the reason must not be lost to the broken pipe.
#[tokio::test]
async fn a_streamed_body_that_is_refused_in_the_middle_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut block = vec![0; 4096];
        stream.read_exact(&mut block).await.unwrap();
        let refusal = answer("400 Bad Request", "connection: close\r\n", r#"{"message":"no archive"}"#);
        stream.write_all(&refusal).await.unwrap();
    });
    let client = Client::new(Endpoint::Unix(socket));
    let (sender, body) = RequestBody::stream();
    let producer = tokio::spawn(async move { while sender.send(Bytes::from(vec![7; 1 << 16])).await {} });
    let refused = client.post("/images/load").body("application/x-tar", body).send().await.unwrap_err();
    assert_eq!(refused.to_string(), "Error response from daemon: no archive");
    producer.await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(Endpoint::Unix(folder.path().join("socket")));
    let error = client.get("/info").send().await.unwrap_err();
    assert!(error.is_unreachable());
    let text = format!("unix://{}/socket. Is the capsid daemon running?", folder.path().display());
    assert!(error.to_string().ends_with(&text), "{error}");
}
