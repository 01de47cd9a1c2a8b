//! A container at this process's streams, from before its start or from now on, until it ends or the user leaves it.

use std::sync::Arc;

use capsid_api::client::{Client, ClientError, Upgraded, segment};
use tokio::sync::mpsc;

use super::ending::{End, Waiting};
use crate::failure::{Failure, OUR_FAILURE};
use crate::session::proxy::{HANG_UP, Proxy, code_of};
use crate::session::signals::Arrived;
use crate::session::{Session, SessionEnd, Wiring};

/// Signals and changes of the terminal, as they arrive.
pub(super) type Arrivals = mpsc::UnboundedReceiver<Arrived>;

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It ended.
    Ended(Box<End>),
    /// The user left it, and it goes on.
    Detached,
    /// The terminal is gone; the container goes on.
    HungUp,
    /// Nobody reads this process's output any more.
    OutputClosed,
}

impl Outcome {
    /// The exit code of this process; tells the user what the code does not.
    pub(super) fn code(&self) -> u8 {
        match self {
            Outcome::Ended(end) => {
                end.tell();
                end.code()
            }
            Outcome::Detached => 0,
            Outcome::HungUp => code_of(HANG_UP),
            Outcome::OutputClosed => OUTPUT_CLOSED,
        }
    }
}

/// The exit code when nobody reads the output any more: as after SIGPIPE.
pub(super) const OUTPUT_CLOSED: u8 = 141;

/// Connects to a container's streams.
pub(super) async fn attach(
    client: &Client,
    id: &str,
    wiring: &Wiring,
    keys: Option<&str>,
) -> Result<Upgraded, ClientError> {
    let request = client.post(format!("/containers/{}/attach", segment(id)));
    let request = request.flag("stream", true).flag("stdin", wiring.stdin).flag("stdout", wiring.stdout);
    request.flag("stderr", wiring.stderr).query_if("detachKeys", keys).upgrade().await
}

/// Keeps the session and passes on what arrives until the container has ended, or the user leaves.
pub(super) async fn keep(
    session: &mut Option<Session>,
    waiting: &mut Waiting,
    arrivals: &mut Arrivals,
    proxy: &Proxy,
    terminal: bool,
) -> Result<Outcome, Failure> {
    let mut ended = None;
    loop {
        if session.is_none()
            && let Some(end) = ended.take()
        {
            return Ok(Outcome::Ended(Box::new(end)));
        }
        tokio::select! {
            over = end_of(session) => match over {
                SessionEnd::Over => {
                    if let Some(session) = session {
                        session.release_terminal();
                    }
                    if let Some(end) = ended.take() {
                        return Ok(Outcome::Ended(Box::new(end)));
                    }
                    // Its moments are still asked for.
                    return wait_out(waiting, arrivals, proxy).await;
                }
                SessionEnd::Detached => return Ok(Outcome::Detached),
                SessionEnd::OutputClosed => return Ok(Outcome::OutputClosed),
                SessionEnd::Failed(error) => {
                    return Err(Failure::text(format!("failed to write the container's output: {error}")));
                }
            },
            end = waiting.end(), if ended.is_none() => ended = Some(end.map_err(lost)?),
            Some(arrived) = arrivals.recv() => {
                proxy.pass(arrived);
                if terminal && arrived == Arrived::Signal(HANG_UP) {
                    return Ok(Outcome::HungUp);
                }
            }
        }
    }
}

/// The session is over: only the end is to be waited for.
async fn wait_out(waiting: &mut Waiting, arrivals: &mut Arrivals, proxy: &Proxy) -> Result<Outcome, Failure> {
    let end = waiting.end();
    tokio::pin!(end);
    loop {
        tokio::select! {
            end = &mut end => return Ok(Outcome::Ended(Box::new(end.map_err(lost)?))),
            Some(arrived) = arrivals.recv() => proxy.pass(arrived),
        }
    }
}

async fn end_of(session: &mut Option<Session>) -> SessionEnd {
    match session {
        Some(session) => session.end().await,
        None => std::future::pending().await,
    }
}

/// The container goes on, but nobody here will hear of it.
fn lost(error: ClientError) -> Failure {
    Failure::text(format!("error waiting for container: {}", crate::failure::chain(&error)))
        .with_code(OUR_FAILURE)
}

/// A proxy for a container's signals and sizes.
pub(super) fn proxy(client: &Arc<Client>, id: &str, wiring: &Wiring, signals: bool) -> Proxy {
    Proxy::of_container(client, id, signals, wiring.terminal)
}
