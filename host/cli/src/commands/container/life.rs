//! `capsid stop`, `restart`, `kill`, `pause` and `unpause`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::commands::each::each;
use crate::failure::Failure;

/// Flags and words of `stop` and `restart`.
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait before killing the container; -1 for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Flags and words of `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Words of verbs that have names alone.
#[derive(Debug, Args)]
pub(crate) struct NamesArguments {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `stop` or `restart`.
pub(crate) async fn stop(arguments: &StopArguments, verb: &'static str, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let (signal, timeout) = (arguments.signal.clone(), arguments.timeout.map(|seconds| seconds.to_string()));
    each(&client, &arguments.containers, |client, name| {
        let (signal, timeout) = (signal.clone(), timeout.clone());
        async move {
            let request = client.post(format!("/containers/{}/{verb}", segment(&name)));
            request.query_if("signal", signal).query_if("t", timeout).send().await.map(|_| name)
        }
    })
    .await
}

pub(crate) async fn kill(arguments: &KillArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let signal = arguments.signal.clone();
    each(&client, &arguments.containers, |client, name| {
        let signal = signal.clone();
        async move {
            let request = client.post(format!("/containers/{}/kill", segment(&name)));
            request.query_if("signal", signal).send().await.map(|_| name)
        }
    })
    .await
}

/// `pause` or `unpause`.
pub(crate) async fn simple(
    arguments: &NamesArguments,
    verb: &'static str,
    call: &Call,
) -> Result<u8, Failure> {
    let client = call.connect().await?;
    each(&client, &arguments.containers, |client, name| async move {
        client.post(format!("/containers/{}/{verb}", segment(&name))).send().await.map(|_| name)
    })
    .await
}
