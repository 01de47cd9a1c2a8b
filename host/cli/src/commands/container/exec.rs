//! `capsid exec`.

use std::path::PathBuf;
use std::sync::Arc;

use capsid_api::client::{Client, segment};
use capsid_api::models::{ExecConfig, ExecStartConfig};
use clap::Args;

use super::foreground::OUTPUT_CLOSED;
use crate::commands::Call;
use crate::failure::{Failure, OUR_FAILURE};
use crate::present::value::Value;
use crate::session::proxy::{HANG_UP, Proxy, code_of, is_ending};
use crate::session::signals::{self, Arrived};
use crate::session::{Session, SessionEnd, Wiring, detach, terminal};
use crate::words::environment;

/// Flags and words of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// Keys that leave the process running
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Set an environment variable: NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = environment::setting)]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the process every capability
    #[arg(long)]
    privileged: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working folder in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs a process in a running container. The result is its exit code.
pub(crate) async fn exec(arguments: &ExecArguments, call: &Call) -> Result<u8, Failure> {
    let attached = !arguments.detach;
    let wiring = Wiring {
        terminal: arguments.tty,
        stdin: arguments.interactive && attached,
        stdout: true,
        stderr: true,
        detach_keys: detach::keys(arguments.detach_keys.as_deref()).map_err(Failure::text)?,
    };
    if wiring.terminal && wiring.stdin && !terminal::input_is_terminal() {
        return Err(Failure::text("the input device is not a TTY"));
    }
    let size =
        terminal::size().filter(|_| arguments.tty).map(|size| vec![size.rows.into(), size.columns.into()]);
    let config = ExecConfig {
        attach_stdin: Some(wiring.stdin),
        attach_stdout: Some(attached),
        attach_stderr: Some(attached),
        console_size: size.clone(),
        detach_keys: arguments.detach_keys.clone(),
        tty: Some(arguments.tty),
        env: Some(environment::all(&arguments.env_file, &arguments.env).map_err(Failure::text)?),
        cmd: Some(arguments.command.clone()),
        privileged: Some(arguments.privileged),
        user: arguments.user.clone(),
        working_dir: arguments.workdir.clone(),
    };
    let client = call.connect().await?;
    let request = client.post(format!("/containers/{}/exec", segment(&arguments.container))).json(&config);
    let made: Value = request.send().await?.json().await?;
    let id = made.get("Id").text();
    let start =
        ExecStartConfig { detach: Some(arguments.detach), tty: Some(arguments.tty), console_size: size };
    let request = client.post(format!("/exec/{}/start", segment(id))).json(&start);
    if arguments.detach {
        request.send().await?;
        return Ok(0);
    }
    let mut arrivals = signals::catch()?;
    let mut session = Session::start(request.upgrade().await?, &wiring)?;
    let proxy = Proxy::of_exec(&client, id, wiring.terminal);
    loop {
        tokio::select! {
            end = session.end() => match end {
                SessionEnd::Over => break,
                SessionEnd::Detached => return Ok(0),
                SessionEnd::OutputClosed => return Ok(OUTPUT_CLOSED),
                SessionEnd::Failed(error) => return Err(error.into()),
            },
            Some(arrived) = arrivals.recv() => match arrived {
                // An exec has no way for signals: they end this process, as docker's.
                Arrived::Signal(signal) if is_ending(signal) && (!wiring.terminal || signal == HANG_UP) => {
                    return Ok(code_of(signal));
                }
                other => proxy.pass(other),
            },
        }
    }
    drop(session);
    exit_code(&client, id).await
}

async fn exit_code(client: &Arc<Client>, id: &str) -> Result<u8, Failure> {
    let document: Value = client.get(format!("/exec/{}/json", segment(id))).send().await?.json().await?;
    match document.get("ExitCode") {
        Value::Integer(code) => Ok(u8::try_from(*code).unwrap_or(u8::MAX)),
        _ => Err(Failure::text("the exec's connection ended before its process").with_code(OUR_FAILURE)),
    }
}
