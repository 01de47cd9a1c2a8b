//! `capsid run`.
//!
//! ```text
//!  flags ─▶ container ─▶ streams ─▶ wait is begun ─▶ start ─▶ … ─▶ end
//! ```

use std::sync::Arc;
use std::time::Duration;

use capsid_api::client::{Client, ClientError, segment};
use capsid_api::models::ContainerCreateBody;
use clap::Args;
use tokio::time::timeout;

use super::ending::Waiting;
use super::flags::ContainerFlags;
use super::foreground::{self, Arrivals, Outcome};
use super::{config, create};
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::session::proxy::{code_of, is_ending};
use crate::session::signals::{self, Arrived};
use crate::session::timings::{self, Timings};
use crate::session::{Session, Wiring, detach, terminal};

/// How long the removal of a container may take whose start failed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags and words of `run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    container: ContainerFlags,
    /// Run in the background, and print the container's identifier
    #[arg(short, long)]
    detach: bool,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    sig_proxy: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Print when each step of the start happened, on stderr
    #[arg(long)]
    timings: bool,
    /// Format of --timings
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: timings::Format,
}

/// A run whose container is made.
struct Run<'a> {
    arguments: &'a RunArguments,
    client: Arc<Client>,
    id: String,
    wiring: Wiring,
    timings: Timings,
}

/// Runs a container to its end, or starts it. The result is the container's exit code.
pub(crate) async fn run(arguments: RunArguments, call: &Call) -> Result<u8, Failure> {
    let mut timings = Timings::from(call.started_us);
    let (body, wiring) = plan(&arguments)?;
    let mut arrivals = signals::catch()?;
    let made = async {
        let client = call.connect().await?;
        timings.reached("connected");
        let id = create::make(&client, &arguments.container, &body).await?;
        timings.reached("created");
        Ok((client, id))
    };
    let (client, id) = tokio::select! {
        made = made => made.map_err(|failure: Failure| failure.of_verb("run"))?,
        signal = ending(&mut arrivals) => return Ok(code_of(signal)),
    };
    let run = Run { arguments: &arguments, client, id, wiring, timings };
    if body.attach_stdin != Some(true) && body.attach_stdout != Some(true) && body.attach_stderr != Some(true)
    {
        return run.in_background().await;
    }
    run.in_foreground(&mut arrivals).await
}

/// What is asked for, if it makes sense.
fn plan(arguments: &RunArguments) -> Result<(ContainerCreateBody, Wiring), Failure> {
    let wrong = |reason: String| Failure::text(reason).of_verb("run");
    let mut body = config::body(&arguments.container).map_err(wrong)?;
    let process = &arguments.container.process;
    if arguments.detach {
        if !process.attach.is_empty() {
            return Err(wrong("conflicting options: cannot specify both --attach and --detach".to_owned()));
        }
        body.attach_stdin = Some(false);
        body.attach_stdout = Some(false);
        body.attach_stderr = Some(false);
        body.stdin_once = Some(false);
    }
    let is = |set: Option<bool>| set == Some(true);
    if process.tty && is(body.attach_stdin) && !terminal::input_is_terminal() {
        return Err(Failure::text("the input device is not a TTY"));
    }
    let wiring = Wiring {
        terminal: process.tty,
        stdin: is(body.attach_stdin),
        stdout: is(body.attach_stdout),
        stderr: is(body.attach_stderr),
        detach_keys: detach::keys(arguments.detach_keys.as_deref()).map_err(wrong)?,
    };
    Ok((body, wiring))
}

impl Run<'_> {
    async fn start(&self) -> Result<(), ClientError> {
        self.client.post(format!("/containers/{}/start", segment(&self.id))).send().await.map(drop)
    }

    async fn in_background(self) -> Result<u8, Failure> {
        self.start().await.map_err(|error| Failure::from(error).of_start("run"))?;
        print(&format!("{}\n", self.id))?;
        Ok(0)
    }

    async fn in_foreground(mut self, arrivals: &mut Arrivals) -> Result<u8, Failure> {
        let ours = |error: ClientError| Failure::from(error).of_verb("run");
        let keys = self.arguments.detach_keys.as_deref();
        let stream = foreground::attach(&self.client, &self.id, &self.wiring, keys).await.map_err(ours)?;
        let condition = if self.removes() { "removed" } else { "next-exit" };
        let mut waiting = Waiting::begin(&self.client, &self.id, condition).await.map_err(ours)?;
        self.timings.reached("attached");
        let mut session = Some(Session::start(stream, &self.wiring)?);
        let started = tokio::select! {
            started = self.start() => started,
            signal = ending(arrivals) => {
                drop(session);
                return Ok(self.give_up(signal).await);
            }
        };
        if let Err(error) = started {
            // The terminal is the user's again before anything is said.
            drop(session);
            if self.removes() {
                let _ = timeout(REMOVAL_TIMEOUT, waiting.end()).await;
            }
            return Err(Failure::from(error).of_start("run"));
        }
        let proxy = foreground::proxy(&self.client, &self.id, &self.wiring, self.arguments.sig_proxy);
        let outcome =
            foreground::keep(&mut session, &mut waiting, arrivals, &proxy, self.wiring.terminal).await;
        let first_byte_us = session.as_ref().and_then(Session::first_byte_us);
        drop(session);
        let outcome = outcome?;
        if matches!(outcome, Outcome::OutputClosed) {
            // As a pipe would end a program here that writes into it.
            self.kill().await;
        }
        let code = outcome.code();
        if let Outcome::Ended(end) = &outcome
            && self.arguments.timings
        {
            if let Some(at_us) = first_byte_us {
                self.timings.reached_at("first-byte", at_us);
            }
            self.timings.reached("ended");
            self.timings.print(&end.capsid, self.arguments.format);
        }
        Ok(code)
    }

    fn removes(&self) -> bool {
        self.arguments.container.life.rm
    }

    /// The user does not want a container any more that is on its way up.
    async fn give_up(&self, signal: i32) -> u8 {
        if self.removes() {
            let request =
                self.client.delete(format!("/containers/{}", segment(&self.id))).flag("force", true);
            let _ = request.send().await;
        } else {
            self.kill().await;
        }
        code_of(signal)
    }

    async fn kill(&self) {
        // What has ended meanwhile needs no killing.
        let _ = self.client.post(format!("/containers/{}/kill", segment(&self.id))).send().await;
    }
}

/// A signal that ends this process by default, while there is no container to forward it to.
async fn ending(arrivals: &mut Arrivals) -> i32 {
    loop {
        match arrivals.recv().await {
            Some(Arrived::Signal(signal)) if is_ending(signal) => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
