//! `/images`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use capsid_api::extensions::LIMIT_PARAMETER;
use capsid_api::models::{ImageDeleteResponseItem, ImageSummary};
use capsid_image::{
    Digest, ImageUse, Limits, LoadError, LoadSource, Progress, RemoveError, RemoveOptions, Removed,
};
use capsid_runtime::containers::Containers;
use capsid_runtime::events::EventKind;
use capsid_runtime::lifecycle::Phase;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{ApiError, Result, internal};
use crate::filters::Filters;
use crate::http::{self, Reply};
use crate::routes::Call;

/// Pieces of an uploaded archive that wait to be unpacked.
const UPLOAD_PIECES: usize = 16;

pub(crate) fn list(call: &Call) -> Result<Reply> {
    let known = ["before", "dangling", "label", "reference", "since", "until"];
    let filters = Filters::read(&call.query, &known)?;
    let store = &call.server.containers.host().images;
    let images = store.images().map_err(|error| internal(&error))?;
    let views = call.server.containers.list();
    let mut summaries = Vec::new();
    for image in images {
        let id = image.id.to_string();
        let tags: Vec<String> = image.references.iter().map(ToString::to_string).collect();
        if filters.truth("dangling")? == Some(!tags.is_empty()) {
            continue;
        }
        let wanted = filters.get("reference");
        if !wanted.is_empty() && !wanted.iter().any(|pattern| tags.iter().any(|tag| names(pattern, tag))) {
            continue;
        }
        let labels = store
            .resolve(&id)
            .ok()
            .and_then(|image| image.config.config().as_ref().and_then(|config| config.labels().clone()));
        let labels: BTreeMap<String, String> = labels.unwrap_or_default().into_iter().collect();
        if !filters.labels("label", &labels) {
            continue;
        }
        let users = views.iter().filter(|view| view.record.image_id == id).count();
        let size = i64::try_from(image.size).unwrap_or(i64::MAX);
        summaries.push(ImageSummary {
            id,
            repo_digests: Vec::new(),
            created: seconds(image.created.as_deref()),
            size,
            shared_size: -1,
            labels: labels.into_iter().collect(),
            containers: i64::try_from(users).unwrap_or(-1),
            repo_tags: tags,
            ..Default::default()
        });
    }
    http::ok(&summaries)
}

fn names(pattern: &str, tag: &str) -> bool {
    tag == pattern || tag.split(':').next() == Some(pattern) || tag.rsplit('/').next() == Some(pattern)
}

fn seconds(created: Option<&str>) -> i64 {
    created.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}

pub(crate) fn inspect(call: &Call, name: &str) -> Result<Reply> {
    let image = call.server.containers.host().image(name)?;
    let config = &image.config;
    let layers: Vec<&String> = config.rootfs().diff_ids().iter().collect();
    let settings: Value = serde_json::to_value(config.config()).unwrap_or_default();
    http::ok(&json!({
        "Id": image.id.to_string(),
        "RepoTags": image.references.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        "Created": config.created(),
        "DockerVersion": "",
        "Author": config.author().clone().unwrap_or_default(),
        "Config": settings,
        "Architecture": config.architecture(),
        "Os": config.os(),
        "Size": image.size,
        "GraphDriver": { "Data": null, "Name": "erofs" },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    }))
}

/// Waits for whoever is loading: not in a thread that serves.
pub(crate) async fn remove(call: &Call, name: String) -> Result<Reply> {
    let containers = call.server.containers.clone();
    let force = call.query.flag("force");
    let removed = tokio::task::spawn_blocking(move || remove_now(&containers, &name, force)).await;
    let items = removed.map_err(|error| internal(&error))??;
    http::ok(&items)
}

fn remove_now(containers: &Containers, name: &str, force: bool) -> Result<Vec<ImageDeleteResponseItem>> {
    let in_use = |id: &Digest| {
        let id = id.to_string();
        let views = containers.list();
        let using = views.iter().filter(|view| view.record.image_id == id);
        using
            .map(|view| ImageUse {
                container: view.record.id.to_string(),
                running: view.phase().counts_as_running() || view.phase() == Phase::Starting,
            })
            .collect()
    };
    let options = RemoveOptions { force, in_use: &in_use };
    let host = containers.host();
    let removed = host.images.remove(name, &options).map_err(|error| remove_error(name, &error))?;
    let mut items = Vec::new();
    for one in removed {
        let mut item = ImageDeleteResponseItem::default();
        let action = match one {
            Removed::Untagged(reference) => {
                item.untagged = Some(reference.to_string());
                "untag"
            }
            Removed::Deleted(digest) => {
                item.deleted = Some(digest.to_string());
                "delete"
            }
        };
        let id = item.untagged.clone().or_else(|| item.deleted.clone()).unwrap_or_default();
        host.events.tell(EventKind::Image, action, id.clone(), BTreeMap::from([("name".to_owned(), id)]));
        items.push(item);
    }
    Ok(items)
}

fn remove_error(name: &str, error: &RemoveError) -> ApiError {
    match error {
        RemoveError::Resolve(capsid_image::ResolveError::NotFound(_)) => {
            ApiError::not_found(format!("No such image: {name}"))
        }
        RemoveError::ReferenceInUse { .. }
        | RemoveError::SeveralReferences(_)
        | RemoveError::UsedByStopped { .. }
        | RemoveError::UsedByRunning { .. } => ApiError::conflict(error.to_string()),
        _ => internal(error),
    }
}

pub(crate) async fn load(call: Call) -> Result<Reply> {
    let mut limits = Limits::default();
    for limit in call.query.all(LIMIT_PARAMETER) {
        let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
        limits.set(name, value).map_err(|error| ApiError::invalid(error.to_string()))?;
    }
    let quiet = call.query.flag("quiet");
    let host = std::sync::Arc::clone(call.server.containers.host());
    let (upload, archive) = upload();
    tokio::spawn(receive(call.body, upload));
    let (sender, reply) = http::streamed("application/json");
    tokio::task::spawn_blocking(move || {
        let told = Told { sender: sender.clone(), quiet };
        let source = LoadSource::Stream(Box::new(archive));
        let lines: Vec<Value> = match host.images.load(source, &limits, &told) {
            Ok(loaded) => loaded
                .into_iter()
                .flat_map(|image| {
                    let id = image.id.to_string();
                    let mut names: Vec<String> =
                        image.references.iter().map(|name| format!("Loaded image: {name}\n")).collect();
                    if names.is_empty() {
                        names.push(format!("Loaded image ID: {id}\n"));
                    }
                    let attributes = BTreeMap::from([("name".to_owned(), id.clone())]);
                    host.events.tell(EventKind::Image, "load", id, attributes);
                    names.into_iter().map(|stream| json!({ "stream": stream }))
                })
                .collect(),
            Err(error) => {
                let message = load_error(&error);
                vec![json!({ "errorDetail": { "message": message }, "error": message })]
            }
        };
        for line in lines {
            told.tell(&line);
        }
    });
    Ok(reply)
}

fn load_error(error: &LoadError) -> String {
    capsid_runtime::error::describe(error)
}

/// Tells a client how a load goes on.
struct Told {
    sender: mpsc::Sender<Bytes>,
    quiet: bool,
}

impl Told {
    fn tell(&self, line: &Value) {
        let mut text = line.to_string();
        text.push_str("\r\n");
        // A client that left does not stop a load.
        let _ = self.sender.blocking_send(text.into());
    }
}

impl Progress for Told {
    fn layer(&self, index: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        if self.quiet {
            return;
        }
        let done = done_bytes >= total_bytes;
        let line = json!({
            "status": if done { "Load complete" } else { "Loading layer" },
            "progressDetail": { "current": done_bytes, "total": total_bytes },
            "id": format!("layer {}/{total}", index + 1),
        });
        let mut text = line.to_string();
        text.push_str("\r\n");
        // What a slow client misses of the progress it does not need.
        let _ = self.sender.try_send(text.into());
    }

    fn warning(&self, text: &str) {
        self.tell(&json!({ "stream": format!("warning: {text}\n") }));
    }
}

/// An upload as something that can be read.
struct Upload {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

fn upload() -> (mpsc::Sender<io::Result<Bytes>>, Upload) {
    let (sender, pieces) = mpsc::channel(UPLOAD_PIECES);
    (sender, Upload { pieces, current: Bytes::new() })
}

async fn receive(mut body: Incoming, upload: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => Ok(bytes),
                Err(_) => continue,
            },
            Err(error) => Err(io::Error::other(error)),
        };
        if upload.send(piece).await.is_err() {
            return;
        }
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
