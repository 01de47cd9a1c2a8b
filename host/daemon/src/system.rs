//! `/_ping`, `/version`, `/info`, `/events`.

use bytes::Bytes;
use capsid_api::version::{NEWEST, OLDEST};
use capsid_runtime::events::{Event, EventKind};
use capsid_runtime::lifecycle::Phase;
use capsid_runtime::network::find_passt;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::query::moment;
use crate::routes::Call;

/// Told by `docker info`.
const NO_PASST: &str =
    "WARNING: passt is not in PATH (Debian's package passt): containers start with --network none only";
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn ping() -> Reply {
    let mut reply = http::text(StatusCode::OK, "text/plain; charset=utf-8", "OK");
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("pragma", HeaderValue::from_static("no-cache"));
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    reply
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(crate) fn version() -> Result<Reply> {
    http::ok(&json!({
        "Platform": { "Name": "capsid" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": NEWEST.to_string(), "Arch": "amd64", "KernelVersion": kernel(),
                "MinAPIVersion": OLDEST.to_string(), "Os": "linux", "Experimental": "false",
                "GitCommit": "", "GoVersion": "", "BuildTime": "",
            },
        }],
        "Version": VERSION, "ApiVersion": NEWEST.to_string(), "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": "", "GoVersion": "", "Os": "linux", "Arch": "amd64", "KernelVersion": kernel(),
        "BuildTime": "",
    }))
}

pub(crate) fn info(call: &Call) -> Result<Reply> {
    let host = call.server.containers.host();
    let views = call.server.containers.list();
    let count = |phases: &[Phase]| views.iter().filter(|view| phases.contains(&view.phase())).count();
    let images = host.images.images().map_or(0, |images| images.len());
    let sysinfo = rustix::system::sysinfo();
    let (engine, notice) = match host.engine(capsid_runtime::engine::EngineChoice::Automatic) {
        Ok(engine) => (
            capsid_runtime::sandbox::engine_name(engine.engine).to_owned(),
            engine.notice.unwrap_or_default(),
        ),
        Err(error) => ("none".to_owned(), capsid_runtime::error::describe(&error)),
    };
    let warnings = find_passt().is_none().then_some([NO_PASST]);
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    http::ok(&json!({
        "ID": name, "Containers": views.len(),
        "ContainersRunning": count(&[Phase::Running, Phase::Ending, Phase::Restarting]),
        "ContainersPaused": count(&[Phase::Paused]),
        "ContainersStopped": count(&[Phase::Created, Phase::Starting, Phase::Exited, Phase::Dead, Phase::Removing]),
        "Images": images, "Driver": "erofs",
        "DriverStatus": [["Engine", engine], ["Engine Notice", notice], ["Layers", "one EROFS image each"], ["Writable Layer", "ext4"]],
        "Plugins": { "Volume": [], "Network": [], "Authorization": null, "Log": ["json-file", "local", "none"] },
        "MemoryLimit": true, "SwapLimit": false, "KernelMemory": false, "CpuCfsPeriod": true, "CpuCfsQuota": true,
        "CPUShares": true, "CPUSet": false, "PidsLimit": true, "IPv4Forwarding": true,
        "BridgeNfIptables": false, "BridgeNfIp6tables": false, "Debug": false, "NFd": 0,
        "OomKillDisable": false, "NGoroutines": 0, "SystemTime": Timestamp::now().to_string(),
        "LoggingDriver": "json-file", "CgroupDriver": "none", "CgroupVersion": "2",
        "NEventsListener": host.events.listeners(), "KernelVersion": kernel(),
        "OperatingSystem": operating_system(), "OSVersion": "", "OSType": "linux", "Architecture": "x86_64",
        "IndexServerAddress": "", "RegistryConfig": null,
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "MemTotal": sysinfo.totalram.saturating_mul(u64::from(sysinfo.mem_unit)), "GenericResources": null,
        "DockerRootDir": host.state_path().display().to_string(), "HttpProxy": "", "HttpsProxy": "",
        "NoProxy": "", "Name": name, "Labels": [], "ExperimentalBuild": false, "ServerVersion": VERSION,
        "Runtimes": { "capsid": { "path": host.artifacts.monitor.display().to_string() } },
        "DefaultRuntime": "capsid",
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false,
            "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "capsid-init",
        "ContainerdCommit": { "ID": "" }, "RuncCommit": { "ID": "" }, "InitCommit": { "ID": "" },
        "SecurityOptions": ["name=microvm"], "CDISpecDirs": [], "Warnings": warnings,
    }))
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// A moment, or a duration before now as Go writes it (`1h30m`).
pub(crate) fn until(text: &str) -> Result<Timestamp> {
    if let Some(moment) = moment(text) {
        return Ok(moment);
    }
    let invalid = || ApiError::invalid(format!("invalid filter 'until={text}'"));
    let span: jiff::SignedDuration = text.parse().map_err(|_| invalid())?;
    Timestamp::now().checked_sub(span).map_err(|_| invalid())
}

const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub(crate) fn events(call: &Call) -> Result<Reply> {
    let filters = Filters::read(&call.query, EVENT_FILTERS)?;
    let (since, until) = (call.query.moment("since")?, call.query.moment("until")?);
    if since.is_some_and(|since| until.is_some_and(|until| since > until)) {
        return Err(ApiError::invalid("`since` time cannot be after `until` time"));
    }
    let (kept, mut receiver) = call.server.containers.host().events.listen();
    let (sender, reply) = http::streamed("application/json");
    tokio::spawn(async move {
        let old = kept.iter().filter(|event| since.is_some_and(|since| event.at >= since));
        for event in old.filter(|event| until.is_none_or(|until| event.at <= until)) {
            if passes(&filters, event) && sender.send(line(event)).await.is_err() {
                return;
            }
        }
        let deadline = async {
            match until {
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        loop {
            let event = tokio::select! {
                event = receiver.recv() => event,
                () = &mut deadline => return,
                () = sender.closed() => return,
            };
            match event {
                Ok(event) if passes(&filters, &event) => {
                    if sender.send(line(&event)).await.is_err() {
                        return;
                    }
                }
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    Ok(reply)
}

fn kind(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Container => "container",
        EventKind::Image => "image",
        EventKind::Daemon => "daemon",
    }
}

fn passes(filters: &Filters, event: &Event) -> bool {
    let kind = kind(event);
    // `exec_create: sh` is found by `exec_create`, as is `health_status: healthy`.
    let action = event.action.split(':').next().unwrap_or_default();
    let named = |name: &str, of: EventKind| {
        let known = event.attributes.get("name").map(String::as_str);
        !filters.has(name)
            || (event.kind == of
                && filters.get(name).iter().any(|wanted| {
                    event.id.starts_with(wanted.as_str()) || known == Some(wanted.trim_start_matches('/'))
                }))
    };
    filters.exact("type", kind)
        && (filters.exact("event", action) || filters.exact("event", &event.action))
        && named("container", EventKind::Container)
        && (!filters.has("image")
            || filters.exact("image", &event.id)
            || event.attributes.get("image").is_some_and(|image| filters.exact("image", image)))
        && filters.labels("label", &event.attributes)
        && filters.exact("scope", "local")
        && ["config", "daemon", "network", "node", "plugin", "secret", "service", "volume"]
            .iter()
            .all(|other| !filters.has(other) || *other == kind)
}

fn line(event: &Event) -> Bytes {
    let attributes: Value = event.attributes.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut document = json!({
        "Type": kind(event),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.at.as_second(),
        "timeNano": i64::try_from(event.at.as_nanosecond()).unwrap_or(i64::MAX),
    });
    if event.kind != EventKind::Daemon {
        // Before 1.22 these were all there was; clients still read them.
        document["status"] = json!(event.action);
        document["id"] = json!(event.id);
        if let Some(image) = event.attributes.get("image").filter(|_| event.kind == EventKind::Container) {
            document["from"] = json!(image);
        }
    }
    let mut text = serde_json::to_vec(&document).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
