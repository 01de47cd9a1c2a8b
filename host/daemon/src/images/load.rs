//! `POST /images/load`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use capsid_api::extensions::LIMIT_PARAMETER;
use capsid_image::{Limits, LoadError, LoadSource, Progress};
use capsid_runtime::events::EventKind;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{ApiError, Result};
use crate::http::{self, CLIENT_PATIENCE, Reply};
use crate::routes::Call;

/// Pieces of an uploaded archive that wait to be unpacked.
const UPLOAD_PIECES: usize = 16;

pub(crate) async fn load(call: Call) -> Result<Reply> {
    let mut limits = Limits::default();
    for limit in call.query.all(LIMIT_PARAMETER) {
        let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
        limits.set(name, value).map_err(|error| ApiError::invalid(error.to_string()))?;
    }
    let quiet = call.query.flag("quiet");
    let place = call.server.transfer()?;
    let host = std::sync::Arc::clone(call.server.containers.host());
    let (upload, archive) = upload();
    if let Some(body) = call.body.take() {
        tokio::spawn(receive(body, upload));
    }
    let (sender, reply) = http::streamed("application/json");
    tokio::task::spawn_blocking(move || {
        let _place = place;
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

/// Reads to the end also what nobody wants any more: a client that is cut off while it sends does not read why.
async fn receive(mut body: Incoming, upload: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match tokio::time::timeout(CLIENT_PATIENCE, body.frame()).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => return,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Ok(bytes),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
        };
        let is_over = piece.is_err();
        let _ = upload.send(piece).await;
        if is_over {
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
