//! The daemon over its API: what a client may rely on.

mod life;
mod listen;
mod routes;

use std::time::Duration;

use capsid_api::client::{Client, ClientError};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that takes moments.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a container of a shell script; the result is its identifier.
pub(super) async fn create(client: &Client, name: &str, script: &str, more: Value) -> String {
    let mut body = json!({ "Image": "busybox", "Cmd": ["sh", "-c", script] });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let made = client.post("/containers/create").query("name", name).json(&body).send().await.unwrap();
    made.json::<Value>().await.unwrap()["Id"].as_str().unwrap().to_owned()
}

pub(super) async fn run(client: &Client, name: &str, script: &str) {
    create(client, name, script, json!({})).await;
    assert_eq!(status(client.post(format!("/containers/{name}/start")).send().await), 204);
}

/// An answer's status, also of a refusal.
pub(super) fn status<T: StatusOf>(answer: Result<T, ClientError>) -> u16 {
    match answer {
        Ok(answer) => answer.status_code(),
        Err(error) => error.status().unwrap_or_else(|| panic!("no answer: {error}")).as_u16(),
    }
}

pub(super) trait StatusOf {
    fn status_code(&self) -> u16;
}

impl StatusOf for capsid_api::client::Response {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
}

pub(super) async fn inspect(client: &Client, name: &str) -> Value {
    let answer = client.get(format!("/containers/{name}/json")).send().await.unwrap();
    answer.json().await.unwrap()
}

pub(super) async fn wait(client: &Client, name: &str) -> i64 {
    let waited = timeout(PATIENCE, async {
        client.post(format!("/containers/{name}/wait")).send().await.unwrap().json::<Value>().await.unwrap()
    });
    waited.await.expect("an end in time")["StatusCode"].as_i64().unwrap()
}

/// What a container printed on stdout, out of the frames.
pub(super) async fn logs(client: &Client, name: &str) -> String {
    let answer = client.get(format!("/containers/{name}/logs")).flag("stdout", true).send().await.unwrap();
    unframed(&answer.bytes().await.unwrap())
}

pub(super) fn unframed(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        text.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    String::from_utf8(text).unwrap()
}

pub(super) async fn await_log(client: &Client, name: &str, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while logs(client, name).await != wanted {
        assert!(Instant::now() < deadline, "{name} has not printed {wanted:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Looks until it is so.
pub(super) async fn await_state(client: &Client, name: &str, wanted: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let document = inspect(client, name).await;
        if document["State"]["Status"] == wanted {
            return document;
        }
        assert!(Instant::now() < deadline, "{name} is not {wanted}: {}", document["State"]);
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn is_alive(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
}

pub(super) async fn await_end_of(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} goes on");
        sleep(Duration::from_millis(20)).await;
    }
}
