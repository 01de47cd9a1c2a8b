//! One who leads containers through their lives, and knows at each moment what must be true of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capsid_api::client::{Client, ClientError, Endpoint, Request, Response};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::killer::Killed;

/// How long one request may take, and how long it may take until a daemon answers again.
const PATIENCE: Duration = Duration::from_secs(120);
/// The container counts, so that a missing line shows.
const SCRIPT: &str = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";

pub(crate) struct Worker {
    number: u64,
    dice: Dice,
    client: Client,
    killed: Arc<Killed>,
    lives: u64,
}

/// What came of a request.
enum Outcome {
    Answered(u16),
    /// The connection broke: it may have been done or not.
    Unknown,
}

impl Worker {
    pub(crate) fn new(number: u64, dice: Dice, socket: PathBuf, killed: Arc<Killed>) -> Worker {
        Worker { number, dice, client: Client::new(Endpoint::Unix(socket)), killed, lives: 0 }
    }

    /// Leads one container after the other until it is told to stop; the result is how many came to their end.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) -> u64 {
        while !stop.load(Ordering::Relaxed) {
            self.live().await;
            self.lives += 1;
        }
        self.lives
    }

    /// One life. What was acknowledged is asserted as soon as it can be seen.
    async fn live(&mut self) {
        let name = format!("w{}-{}", self.number, self.lives);
        self.create(&name).await;
        let mut kept = 0;
        for _ in 0..1 + self.dice.below(3) {
            let (killed_before, kept_before) = (self.killed.machines(), kept);
            self.start(&name).await;
            for _ in 0..self.dice.below(4) {
                kept = self.append(&name, kept, killed_before).await;
            }
            if self.dice.chance(40) {
                self.follow_and_leave(&name).await;
            }
            self.end(&name).await;
            // What ran an exec had begun to count; only with its machine it may have died before the daemon heard of it.
            let must = kept > kept_before && self.killed.machines() == killed_before;
            self.assert_output(&name, must).await;
        }
        self.remove(&name).await;
    }

    async fn create(&self, name: &str) {
        let body = json!({ "Image": "busybox", "Cmd": ["sh", "-c", SCRIPT], "HostConfig": { "NetworkMode": "none" } });
        loop {
            let create = || self.client.post("/containers/create").query("name", name).json(&body);
            match self.ask(create).await {
                Outcome::Answered(201) => break,
                // It was made before the answer was lost.
                Outcome::Answered(409) => break,
                Outcome::Answered(other) => panic!("creating {name} answered {other}"),
                Outcome::Unknown => {}
            }
        }
        assert_eq!(self.state(name).await["Status"], "created", "{name}");
    }

    async fn start(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let start = || self.client.post(format!("/containers/{name}/start"));
            let outcome = self.ask(start).await;
            let state = self.state(name).await;
            let runs = state["Running"] == true;
            match outcome {
                Outcome::Answered(204 | 304) if runs || self.was_killed(&state) => return,
                Outcome::Answered(204 | 304) => panic!("{name} was started and is {state}"),
                // Its machine was killed while it started: it says so, and can be started again.
                Outcome::Answered(500) => assert!(!runs, "{name} did not start and is {state}"),
                Outcome::Answered(other) => panic!("starting {name} answered {other}: {state}"),
                Outcome::Unknown if runs => return,
                Outcome::Unknown => {}
            }
            assert!(Instant::now() < deadline, "{name} does not start: {state}");
        }
    }

    /// Has the container write a line and wait until it is on the disk. The result is how many lines must be there from
    /// now on.
    async fn append(&mut self, name: &str, kept: u64, killed_before: u64) -> u64 {
        let script = format!("wc -l < /kept 2>/dev/null || echo 0; echo {kept} >> /kept; sync");
        match self.exec(name, &script).await {
            Some((0, printed)) => {
                let found: u64 =
                    printed.trim().parse().unwrap_or_else(|_| panic!("{name} printed {printed:?}"));
                // One more than was acknowledged may be there: its acknowledgement was lost.
                assert!(found >= kept, "{name} has {found} lines of {kept}");
                found + 1
            }
            Some((code, printed)) => {
                assert!(
                    self.killed.machines() > killed_before,
                    "{name} ended an exec with {code}: {printed}"
                );
                kept
            }
            None => kept,
        }
    }

    /// Runs a script in the container. `None` if nobody can say what came of it.
    async fn exec(&mut self, name: &str, script: &str) -> Option<(i64, String)> {
        let body = json!({ "Cmd": ["sh", "-c", script], "AttachStdout": true });
        let made = self.client.post(format!("/containers/{name}/exec")).json(&body).send().await.ok()?;
        let id = made.json::<Value>().await.ok()?["Id"].as_str()?.to_owned();
        let leaves = self.dice.chance(20);
        let start = self.client.post(format!("/exec/{id}/start")).json(&json!({ "Detach": false }));
        let started = timeout(PATIENCE, start.send()).await.expect("an answer in time").ok()?;
        if leaves {
            // A client that is killed in the middle: what it asked for goes on.
            drop(started);
            self.killed.client();
            return None;
        }
        let output = timeout(PATIENCE, started.bytes()).await.expect("an end in time").ok()?;
        let ended =
            self.client.get(format!("/exec/{id}/json")).send().await.ok()?.json::<Value>().await.ok()?;
        Some((ended["ExitCode"].as_i64()?, unframed(&output)))
    }

    /// Follows the log for a moment, and leaves without a word.
    async fn follow_and_leave(&mut self, name: &str) {
        let follow =
            self.client.get(format!("/containers/{name}/logs")).flag("stdout", true).flag("follow", true);
        if let Ok(mut response) = follow.send().await {
            let moment = Duration::from_millis(self.dice.below(1000));
            let _ = timeout(moment, async { while let Ok(Some(_)) = response.chunk().await {} }).await;
            self.killed.client();
        }
    }

    async fn end(&mut self, name: &str) {
        let by_kill = self.dice.chance(50);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = || match by_kill {
                true => self.client.post(format!("/containers/{name}/kill")),
                false => self.client.post(format!("/containers/{name}/stop")).query("t", "1"),
            };
            let outcome = self.ask(request).await;
            let state = self.state(name).await;
            if state["Running"] == false {
                assert_eq!(
                    (&state["Status"], &state["ExitCode"]),
                    (&json!("exited"), &json!(137)),
                    "{name}: {state}"
                );
                return;
            }
            if let Outcome::Answered(code) = outcome {
                assert!(by_kill && matches!(code, 204 | 409), "{name} goes on after {code}: {state}");
            }
            assert!(Instant::now() < deadline, "{name} does not end: {state}");
        }
    }

    /// The log of each run counts from zero without a gap.
    async fn assert_output(&self, name: &str, must_have_some: bool) {
        let logs = || self.client.get(format!("/containers/{name}/logs")).flag("stdout", true);
        let output = self.body(logs).await;
        let text = unframed(&output);
        assert!(!must_have_some || !text.is_empty(), "{name} has printed, and its log is empty");
        let mut next = 0;
        for line in text.lines() {
            let number: u64 = line.parse().unwrap_or_else(|_| panic!("{name} printed {line:?}"));
            assert!(number == next || number == 0, "{name} printed {number} where {next} was due");
            next = number + 1;
        }
    }

    async fn remove(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let remove = || self.client.delete(format!("/containers/{name}")).flag("force", true);
            match self.ask(remove).await {
                Outcome::Answered(204 | 404) => break,
                Outcome::Answered(other) => panic!("removing {name} answered {other}"),
                Outcome::Unknown => assert!(Instant::now() < deadline, "{name} is not removed"),
            }
        }
        let inspect = || self.client.get(format!("/containers/{name}/json"));
        loop {
            match self.ask(inspect).await {
                Outcome::Answered(404) => return,
                Outcome::Answered(other) => panic!("{name} was removed, and inspecting it answered {other}"),
                Outcome::Unknown => {}
            }
        }
    }

    /// Whether the container's machine was among those that were killed.
    fn was_killed(&self, state: &Value) -> bool {
        let named = state["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        named.is_some_and(|pid| self.killed.holds(pid))
            || (state["ExitCode"] == 137 && self.killed.machines() > 0)
    }

    async fn state(&self, name: &str) -> Value {
        let inspect = || self.client.get(format!("/containers/{name}/json"));
        let body = self.body(inspect).await;
        let document: Value = serde_json::from_slice(&body).expect("a document");
        document["State"].clone()
    }

    /// An answer's whole body, asked for until there is one.
    async fn body<'a>(&'a self, request: impl Fn() -> Request<'a>) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_once(request()).await {
                Ok(response) => match timeout(PATIENCE, response.bytes()).await.expect("an end in time") {
                    Ok(bytes) => return bytes.to_vec(),
                    Err(_) => assert!(Instant::now() < deadline, "no whole answer"),
                },
                Err(error) if error.status().is_some() => panic!("refused: {error}"),
                Err(error) => assert!(Instant::now() < deadline, "no daemon: {error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// One request; while no daemon listens it is tried again, since nothing was asked yet.
    async fn ask<'a>(&'a self, request: impl Fn() -> Request<'a>) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_once(request()).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    return match response.bytes().await {
                        Ok(_) => Outcome::Answered(status),
                        Err(_) => Outcome::Unknown,
                    };
                }
                Err(error) if error.is_unreachable() => {
                    assert!(Instant::now() < deadline, "no daemon: {error}");
                    sleep(Duration::from_millis(20)).await;
                }
                Err(error) => {
                    return error
                        .status()
                        .map_or(Outcome::Unknown, |status| Outcome::Answered(status.as_u16()));
                }
            }
        }
    }

    async fn try_once(&self, request: Request<'_>) -> Result<Response, ClientError> {
        timeout(PATIENCE, request.send()).await.expect("an answer in time")
    }
}

/// What is in the frames of an output.
fn unframed(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (data, rest) = rest.split_at(length.min(rest.len()));
        text.extend_from_slice(data);
        bytes = rest;
    }
    String::from_utf8_lossy(&text).into_owned()
}
