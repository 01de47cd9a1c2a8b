//! `capsid start`.

use capsid_api::client::segment;
use clap::Args;

use super::ending::Waiting;
use super::foreground;
use crate::commands::Call;
use crate::commands::each::each;
use crate::failure::Failure;
use crate::present::value::Value;
use crate::session::{Session, Wiring, detach, signals, terminal};

/// Flags and words of `start`.
#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Attach stdout and stderr, and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts containers; one of them at this process's streams, if that is asked for.
pub(crate) async fn start(arguments: &StartArguments, call: &Call) -> Result<u8, Failure> {
    if !arguments.attach && !arguments.interactive {
        let client = call.connect().await?;
        return each(&client, &arguments.containers, |client, name| async move {
            client.post(format!("/containers/{}/start", segment(&name))).send().await.map(|_| name)
        })
        .await;
    }
    let [name] = arguments.containers.as_slice() else {
        return Err(Failure::text("you cannot start and attach multiple containers at once"));
    };
    attached(arguments, name, call).await
}

async fn attached(arguments: &StartArguments, name: &str, call: &Call) -> Result<u8, Failure> {
    let keys = arguments.detach_keys.as_deref();
    let detach_keys = detach::keys(keys).map_err(Failure::text)?;
    let client = call.connect().await?;
    let document: Value =
        client.get(format!("/containers/{}/json", segment(name))).send().await?.json().await?;
    let (id, config) = (document.get("Id").text(), document.get("Config"));
    let wiring = Wiring {
        terminal: config.get("Tty").is_true(),
        stdin: arguments.interactive && config.get("OpenStdin").is_true(),
        stdout: true,
        stderr: true,
        detach_keys,
    };
    if wiring.terminal && wiring.stdin && !terminal::input_is_terminal() {
        return Err(Failure::text("the input device is not a TTY"));
    }
    let mut arrivals = signals::catch()?;
    let stream = foreground::attach(&client, id, &wiring, keys).await?;
    let removes = document.at(&["HostConfig", "AutoRemove"]).is_true();
    let mut waiting = Waiting::begin(&client, id, if removes { "removed" } else { "next-exit" }).await?;
    let mut session = Some(Session::start(stream, &wiring)?);
    let started = client.post(format!("/containers/{}/start", segment(id))).send().await;
    if let Err(error) = started {
        drop(session);
        return Err(error.into());
    }
    let proxy = foreground::proxy(&client, id, &wiring, !wiring.terminal);
    if wiring.terminal {
        proxy.resize().await;
    }
    let outcome = foreground::keep(&mut session, &mut waiting, &mut arrivals, &proxy, wiring.terminal).await;
    drop(session);
    Ok(outcome?.code())
}
