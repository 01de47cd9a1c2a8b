//! Requests that change a container's phase, and waiting for it.

use std::time::Duration;

use bytes::Bytes;
use capsid_api::extensions::{EndNotes, TimelineStep};
use capsid_api::models::{ContainerPruneResponse, ContainerWaitExitError, ContainerWaitResponse};
use capsid_protocol::TerminalSize;
use capsid_runtime::container::ContainerName;
use capsid_runtime::containers::{Container, WaitFor, Waited};
use capsid_runtime::driver::Outcome;
use capsid_runtime::error::ContainerError;
use capsid_runtime::lifecycle::{Phase, Request};
use capsid_runtime::record::SIGKILL;
use capsid_runtime::sandbox::engine_name;
use capsid_runtime::timeline::Timeline;
use hyper::StatusCode;
use serde::Serialize;

use super::signals::signal_number;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::query::Query;
use crate::routes::Call;

/// How long a kill for good waits for the end that it brings about (moby, `containerKill`).
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

fn find(call: &Call, id: &str) -> Result<Container> {
    Ok(call.server.containers.find(id)?)
}

/// 204, or 304 for what was so already.
fn done(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Done => http::no_content(),
        Outcome::AlreadySo => http::empty(StatusCode::NOT_MODIFIED),
    }
}

pub(crate) async fn start(call: &Call, id: &str) -> Result<Reply> {
    if call.query.text("checkpoint").is_some() {
        return Err(ApiError::unsupported("checkpoints are"));
    }
    Ok(done(find(call, id)?.start().await?))
}

fn signal(call: &Call) -> Result<Option<i32>> {
    call.query.text("signal").map(signal_number).transpose()
}

pub(crate) async fn stop(call: &Call, id: &str) -> Result<Reply> {
    let (signal, grace) = (signal(call)?, call.query.number("t")?);
    Ok(done(find(call, id)?.stop(signal, grace).await?))
}

pub(crate) async fn restart(call: &Call, id: &str) -> Result<Reply> {
    let (signal, grace) = (signal(call)?, call.query.number("t")?);
    find(call, id)?.restart(signal, grace).await?;
    Ok(http::no_content())
}

pub(crate) async fn kill(call: &Call, id: &str) -> Result<Reply> {
    let cannot = |error: ApiError| {
        ApiError::new(error.status, format!("cannot kill container: {id}: {}", error.message))
    };
    let signal = signal(call).map_err(cannot)?.unwrap_or(SIGKILL);
    let container = find(call, id).map_err(cannot)?;
    let ended = container.wait(WaitFor::NextExit);
    container.kill(signal).await.map_err(|error| cannot(error.into()))?;
    // Clients go on as if it had ended: Docker's daemon waits, too.
    if signal == SIGKILL {
        let _ = tokio::time::timeout(KILL_TIMEOUT, ended).await;
    }
    Ok(http::no_content())
}

pub(crate) async fn pause(call: &Call, id: &str) -> Result<Reply> {
    Ok(done(find(call, id)?.pause().await?))
}

pub(crate) async fn unpause(call: &Call, id: &str) -> Result<Reply> {
    Ok(done(find(call, id)?.unpause().await?))
}

pub(crate) async fn rename(call: &Call, id: &str) -> Result<Reply> {
    let container = find(call, id)?;
    let name =
        call.query.text("name").ok_or_else(|| ApiError::invalid("Neither old nor new names may be empty"))?;
    let allocating = "Error when allocating new name";
    let name: ContainerName = name.parse().map_err(|_| {
        let rule = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
        ApiError::invalid(format!("{allocating}: Invalid container name (/{name}), {rule}"))
    })?;
    let old = container.view().record.name.clone();
    if old == name {
        let message = "Renaming a container with the same name as its current name";
        return Err(ApiError::invalid(message));
    }
    call.server.containers.rename(&container, name).await.map_err(|error| {
        let taken = matches!(error, ContainerError::NameTaken { .. });
        let error = ApiError::from(error);
        if taken { ApiError::new(error.status, format!("{allocating}: {}", error.message)) } else { error }
    })?;
    Ok(http::no_content())
}

pub(crate) async fn remove(call: &Call, id: &str) -> Result<Reply> {
    if call.query.flag("link") {
        return Err(ApiError::unsupported("links are"));
    }
    let removed = find(call, id)?.remove(call.query.flag("force")).await;
    removed.map_err(|error| error.calling(id))?;
    Ok(http::no_content())
}

/// The size that `h` and `w` tell.
pub(crate) fn size(query: &Query) -> Result<TerminalSize> {
    let side = |name: &str| -> Result<u16> {
        let number = query.number(name)?.unwrap_or(0);
        u16::try_from(number).map_err(|_| ApiError::invalid(format!("invalid value for {name}: {number}")))
    };
    Ok(TerminalSize { rows: side("h")?, columns: side("w")? })
}

pub(crate) async fn resize(call: &Call, id: &str) -> Result<Reply> {
    let size = size(&call.query)?;
    let container = find(call, id)?;
    let live = container.running(Request::Exec).await?;
    // As Docker's daemon: without a terminal there is nothing to do, and nothing wrong.
    if live.process.terminal.is_some() {
        live.resize(size).await?;
    }
    Ok(http::empty(StatusCode::OK))
}

/// Answers at once with a head, so that the client knows that the wait has begun, and with the end when it comes.
pub(crate) fn wait(call: &Call, id: &str) -> Result<Reply> {
    let until = match call.query.text("condition").unwrap_or("not-running") {
        "not-running" => WaitFor::NotRunning,
        "next-exit" => WaitFor::NextExit,
        "removed" => WaitFor::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waited = find(call, id)?.wait(until);
    let (sender, reply) = http::streamed("application/json");
    tokio::spawn(async move {
        let waited = tokio::select! {
            waited = waited => waited,
            () = sender.closed() => return,
        };
        let mut text = serde_json::to_vec(&Ended::from(waited)).unwrap_or_default();
        text.push(b'\n');
        let _ = sender.send(Bytes::from(text)).await;
    });
    Ok(reply)
}

/// Docker's answer, and what capsid adds to it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ended {
    #[serde(flatten)]
    docker: ContainerWaitResponse,
    #[serde(skip_serializing_if = "Option::is_none")]
    capsid: Option<EndNotes>,
}

impl From<Waited> for Ended {
    fn from(waited: Waited) -> Ended {
        let Waited { exit_code, error, notes } = waited;
        let error = (!error.is_empty()).then_some(ContainerWaitExitError { message: Some(error) });
        let capsid = notes.map(|notes| EndNotes {
            notices: notes.notices.clone(),
            engine: engine_name(notes.engine).to_owned(),
            timeline: timeline(&notes.timeline),
        });
        Ended { docker: ContainerWaitResponse { status_code: i64::from(exit_code), error }, capsid }
    }
}

fn timeline(timeline: &Timeline) -> Vec<TimelineStep> {
    let start = timeline.start().0;
    let steps = timeline.steps().into_iter().map(|step| TimelineStep {
        name: step.name,
        observer: step.observer.name().to_owned(),
        at_us: start.saturating_add(step.at_us),
    });
    steps.collect()
}

pub(crate) async fn prune(call: &Call) -> Result<Reply> {
    let filters = Filters::read(&call.query, &["label", "label!", "until"])?;
    let until = match filters.get("until").first() {
        Some(text) => Some(crate::system::until(text)?),
        None => None,
    };
    let mut removed = Vec::new();
    let mut space = 0;
    for container in call.server.containers.all() {
        let view = container.view();
        let record = &view.record;
        let ended = matches!(view.phase(), Phase::Created | Phase::Exited | Phase::Dead);
        let unwanted = filters.has("label!") && filters.labels("label!", &record.options.labels);
        let old = until.is_none_or(|until| record.created < until);
        if !ended || !old || unwanted || !filters.labels("label", &record.options.labels) {
            continue;
        }
        let (size, _) = super::list::sizes_of(&call.server, &view);
        // One that was started meanwhile stays.
        if container.remove(false).await.is_ok() {
            space += size.unwrap_or(0);
            removed.push(record.id.to_string());
        }
    }
    http::ok(&ContainerPruneResponse {
        containers_deleted: Some(removed),
        space_reclaimed: Some(i64::try_from(space).unwrap_or(i64::MAX)),
    })
}
