//! `capsid stats`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use capsid_api::client::{Client, ClientError, segment};
use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::stats_row::{KIND, row};
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::{Form, Row, print};
use crate::present::value::Value;

/// Between two screens.
const PERIOD: Duration = Duration::from_millis(500);
/// Between two looks for containers that were started meanwhile.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Flags and words of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    /// Show all containers, not just those that run
    #[arg(short, long)]
    all: bool,
    /// 'table', 'json', or a template, which may follow 'table'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print once
    #[arg(long)]
    no_stream: bool,
    /// Print whole identifiers
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What one container's stream told: its newest figures, or that it is over.
type Told = (String, Option<Value>);

pub(crate) async fn stats(arguments: &StatsArguments, call: &Call) -> Result<u8, Failure> {
    let form = Form::new(KIND, arguments.format.as_deref(), false)?;
    let client = call.connect().await?;
    if arguments.no_stream {
        return once(arguments, &client, &form).await;
    }
    let mut watched = Watched::new(&client);
    for name in &names(arguments, &client).await? {
        // One that does not exist is told at once.
        client.get(format!("/containers/{}/json", segment(name))).send().await?;
        watched.watch(name);
    }
    let mut screens = interval(PERIOD);
    let mut looks = interval(LOOK_PERIOD);
    screens.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((name, figures)) = watched.told.recv() => watched.note(name, figures),
            _ = looks.tick(), if arguments.containers.is_empty() => {
                for name in &names(arguments, &client).await? {
                    watched.watch(name);
                }
            }
            _ = screens.tick() => {
                if !arguments.containers.is_empty() && watched.tasks.is_empty() {
                    return Ok(0);
                }
                // The screen's beginning, and what is below it cleared.
                let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
                let rows: Vec<Row> = watched.figures.values().map(|figures| row(figures, arguments.no_trunc)).collect();
                print(&format!("{clear}{}", form.text(&rows)?))?;
            }
        }
    }
}

async fn once(arguments: &StatsArguments, client: &Arc<Client>, form: &Form) -> Result<u8, Failure> {
    let names = names(arguments, client).await?;
    let tasks: Vec<JoinHandle<Result<Value, ClientError>>> = names
        .iter()
        .map(|name| {
            let (client, path) = (Arc::clone(client), format!("/containers/{}/stats", segment(name)));
            tokio::spawn(async move { client.get(path).query("stream", "0").send().await?.json().await })
        })
        .collect();
    let mut rows = Vec::new();
    for task in tasks {
        rows.push(row(&task.await??, arguments.no_trunc));
    }
    print(&form.text(&rows)?)?;
    Ok(0)
}

/// Those that were named, or all that run.
async fn names(arguments: &StatsArguments, client: &Arc<Client>) -> Result<Vec<String>, ClientError> {
    if !arguments.containers.is_empty() {
        return Ok(arguments.containers.clone());
    }
    let request = client.get("/containers/json").flag("all", arguments.all);
    let containers: Vec<Value> = request.send().await?.json().await?;
    Ok(containers.iter().map(|container| container.get("Id").text().to_owned()).collect())
}

/// The containers whose figures come in.
struct Watched {
    client: Arc<Client>,
    sender: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    tasks: BTreeMap<String, JoinHandle<()>>,
    figures: BTreeMap<String, Value>,
}

impl Watched {
    fn new(client: &Arc<Client>) -> Watched {
        let (sender, told) = mpsc::channel(64);
        Watched { client: Arc::clone(client), sender, told, tasks: BTreeMap::new(), figures: BTreeMap::new() }
    }

    fn watch(&mut self, name: &str) {
        if self.tasks.contains_key(name) {
            return;
        }
        let (client, sender, name) = (Arc::clone(&self.client), self.sender.clone(), name.to_owned());
        let key = name.clone();
        let task = tokio::spawn(async move {
            let request = client.get(format!("/containers/{}/stats", segment(&name))).query("stream", "1");
            if let Ok(answer) = request.send().await {
                let mut stream = answer.json_stream::<Value>();
                while let Ok(Some(figures)) = stream.next().await {
                    if sender.send((name.clone(), Some(figures))).await.is_err() {
                        return;
                    }
                }
            }
            let _ = sender.send((name, None)).await;
        });
        self.tasks.insert(key, task);
    }

    fn note(&mut self, name: String, figures: Option<Value>) {
        match figures {
            Some(figures) => {
                self.figures.insert(name, figures);
            }
            None => {
                self.tasks.remove(&name);
                self.figures.remove(&name);
            }
        }
    }
}
