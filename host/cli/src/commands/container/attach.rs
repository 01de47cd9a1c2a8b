//! `capsid attach`.

use capsid_api::client::segment;
use clap::Args;

use super::ending::Waiting;
use super::foreground;
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::value::Value;
use crate::session::{Session, Wiring, detach, signals, terminal};

/// Flags and words of `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Do not attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    sig_proxy: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    container: String,
}

/// Attaches to a running container until it ends, or the user leaves. The result is its exit code.
pub(crate) async fn attach(arguments: &AttachArguments, call: &Call) -> Result<u8, Failure> {
    let keys = arguments.detach_keys.as_deref();
    let detach_keys = detach::keys(keys).map_err(Failure::text)?;
    let client = call.connect().await?;
    let path = format!("/containers/{}/json", segment(&arguments.container));
    let document: Value = client.get(path).send().await?.json().await?;
    let state = document.get("State");
    for (is_so, message) in [
        (!state.get("Running").is_true(), "cannot attach to a stopped container, start it first"),
        (state.get("Paused").is_true(), "cannot attach to a paused container, unpause it first"),
        (
            state.get("Restarting").is_true(),
            "cannot attach to a restarting container, wait until it is running",
        ),
    ] {
        if is_so {
            return Err(Failure::text(message));
        }
    }
    let config = document.get("Config");
    let wiring = Wiring {
        terminal: config.get("Tty").is_true(),
        stdin: !arguments.no_stdin && config.get("OpenStdin").is_true(),
        stdout: true,
        stderr: true,
        detach_keys,
    };
    if wiring.terminal && wiring.stdin && !terminal::input_is_terminal() {
        return Err(Failure::text("the input device is not a TTY"));
    }
    let id = document.get("Id").text();
    let mut arrivals = signals::catch()?;
    let mut waiting = Waiting::begin(&client, id, "not-running").await?;
    let stream = foreground::attach(&client, id, &wiring, keys).await?;
    let mut session = Some(Session::start(stream, &wiring)?);
    let proxy = foreground::proxy(&client, id, &wiring, arguments.sig_proxy && !wiring.terminal);
    if wiring.terminal {
        proxy.resize().await;
    }
    let outcome = foreground::keep(&mut session, &mut waiting, &mut arrivals, &proxy, wiring.terminal).await;
    drop(session);
    let outcome = outcome?;
    if matches!(outcome, foreground::Outcome::Detached) {
        // As docker has it, here and not where a container was started.
        return Err(Failure::text("read escape sequence"));
    }
    Ok(outcome.code())
}
