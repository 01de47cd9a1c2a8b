//! `GET /containers/{id}/json`.

use capsid_runtime::driver::View;
use capsid_runtime::lifecycle::Phase;
use capsid_runtime::pump::log_path;
use capsid_runtime::sandbox::engine_name;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::network::network;
use crate::error::Result;
use crate::http::{self, Reply};
use crate::routes::Call;

/// Docker's zero of time: Go's.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(crate) async fn inspect(call: &Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    let view = container.view();
    let running = call.server.containers.running_execs(container.id());
    let mut document = describe(&view, &log_path(container.folder(), &view.record).display().to_string());
    document["ExecIDs"] = if running.is_empty() { Value::Null } else { json!(running) };
    http::ok(&document)
}

/// As Docker writes moments.
pub(crate) fn moment(moment: Option<Timestamp>) -> String {
    moment.map_or_else(|| NEVER.to_owned(), |moment| moment.to_string())
}

fn describe(view: &View, log: &str) -> Value {
    let record = &view.record;
    let (path, args) =
        record.command.split_first().map_or(("", &[][..]), |(path, args)| (path.as_str(), args));
    let mut config = record.documents["Config"].clone();
    if config["Hostname"].as_str().unwrap_or_default().is_empty() {
        config["Hostname"] = json!(record.id.short());
    }
    let folder = log.rsplit_once('/').map_or("", |(folder, _)| folder);
    json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": path,
        "Args": args,
        "State": state(view),
        "Image": record.image_id,
        "ResolvConfPath": format!("{folder}/resolv.conf"),
        "HostnamePath": format!("{folder}/hostname"),
        "HostsPath": format!("{folder}/hosts"),
        "LogPath": if record.life.log.driver == "none" { "" } else { log },
        "Name": format!("/{}", record.name),
        "RestartCount": record.state.restarts,
        "Driver": "erofs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": record.documents["HostConfig"],
        "GraphDriver": { "Data": null, "Name": "erofs" },
        "Mounts": mounts(view),
        "Config": config,
        "NetworkSettings": network(view),
        "Capsid": capsid(view),
    })
}

/// What Docker has no words for.
fn capsid(view: &View) -> Value {
    let Some(live) = &view.live else { return json!({ "Engine": null, "Timeline": [] }) };
    json!({ "Engine": engine_name(live.sandbox.engine()), "Timeline": live.timeline.steps() })
}

fn state(view: &View) -> Value {
    let state = &view.record.state;
    let phase = view.shown_phase();
    let pid = view.live.as_ref().map_or(0, |live| live.sandbox.monitor().pid());
    let mut document = json!({
        "Status": phase.status(),
        "Running": phase.counts_as_running(),
        "Paused": phase == Phase::Paused,
        "Restarting": phase == Phase::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": phase == Phase::Dead,
        "Pid": if phase == Phase::Restarting { 0 } else { pid },
        "ExitCode": if matches!(phase, Phase::Running | Phase::Paused) { 0 } else { state.exit_code },
        "Error": state.error,
        "StartedAt": moment(state.started_at),
        "FinishedAt": moment(state.finished_at),
    });
    if view.record.life.health.is_some() {
        document["Health"] = health(view);
    }
    document
}

fn health(view: &View) -> Value {
    let health = view.record.state.health.clone().unwrap_or_default();
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|result| {
            json!({
                "Start": result.start.to_string(),
                "End": result.end.to_string(),
                "ExitCode": result.exit_code,
                "Output": result.output,
            })
        })
        .collect();
    json!({ "Status": health.status.name(), "FailingStreak": health.failing_streak, "Log": log })
}

pub(super) fn mounts(view: &View) -> Vec<Value> {
    let tmpfs = view.record.documents["HostConfig"]["Mounts"].as_array();
    let targets = tmpfs.into_iter().flatten().filter_map(|mount| mount["Target"].as_str());
    targets
        .map(|target| {
            json!({
                "Type": "tmpfs", "Source": "", "Destination": target, "Mode": "", "RW": true, "Propagation": "",
            })
        })
        .collect()
}
