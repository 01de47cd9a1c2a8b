//! Many starts at once, and many removals: all are done, however long the line is.

use capsid_api::client::{Client, Endpoint};
use capsid_tests::Daemon;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{left, number};

/// How many start at once when nothing else is said.
const DEFAULT_STARTS: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_starts_at_once_all_come_up() {
    let starts = number("CAPSID_SOAK_STARTS", DEFAULT_STARTS);
    let mut daemon = Daemon::start().await;
    let (folder, before) = (daemon.folder().to_owned(), left::descriptors(daemon.pid()));
    let client = || Client::new(Endpoint::Unix(folder.join("d.sock")));
    let body = json!({
        "Image": "busybox",
        "Cmd": ["sleep", "100000"],
        "HostConfig": { "NetworkMode": "none", "Memory": 24 << 20 },
    });
    for index in 0..starts {
        let made =
            client().post("/containers/create").query("name", format!("c{index}")).json(&body).send().await;
        made.unwrap_or_else(|error| panic!("creating c{index}: {error}"));
    }
    let mut tasks = JoinSet::new();
    for index in 0..starts {
        let client = client();
        tasks.spawn(async move {
            let started = client.post(format!("/containers/c{index}/start")).send().await;
            started.map(drop).map_err(|error| format!("starting c{index}: {error}"))
        });
    }
    while let Some(started) = tasks.join_next().await {
        started.expect("a task").unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    }
    let running = client().get("/containers/json").send().await.expect("a list");
    let running: Vec<Value> = running.json().await.expect("a list");
    assert_eq!(running.len() as u64, starts);
    assert_eq!(daemon.monitors().len() as u64, starts, "each has a machine of its own");
    for index in 0..starts {
        let client = client();
        tasks.spawn(async move {
            let removed = client.delete(format!("/containers/c{index}")).flag("force", true).send().await;
            removed.map(drop).map_err(|error| format!("removing c{index}: {error}"))
        });
    }
    while let Some(removed) = tasks.join_next().await {
        removed.expect("a task").unwrap_or_else(|error| panic!("{error}"));
    }
    left::assert_nothing(&mut daemon, &folder, before).await;
}
