//! `GET /containers/{id}/logs`.

use bytes::Bytes;
use capsid_api::frames::FrameStream;
use capsid_runtime::containers::Container;
use capsid_runtime::logs::{LogBatch, LogPosition, LogQuery, LogReadError, LogReader, LogStream};
use capsid_runtime::pump::log_path;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result, internal};
use crate::hijack::frame;
use crate::http::{self, Reply};
use crate::routes::Call;

/// Pieces of a log that wait for a slow client.
const PIECES: usize = 4;
/// Frames are sent together up to about this size, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How entries go over the wire.
#[derive(Debug, Clone, Copy)]
struct Form {
    terminal: bool,
    timestamps: bool,
    details: bool,
}

pub(crate) fn logs(call: &Call, id: &str) -> Result<Reply> {
    let query = &call.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let container = call.server.containers.find(id)?;
    let wanted = LogQuery {
        stdout,
        stderr,
        since: query.moment("since")?,
        until: query.moment("until")?,
        tail: tail(query.text("tail")),
        follow: query.flag("follow"),
    };
    let form = Form {
        terminal: container.view().record.options.terminal.is_some(),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let reader = open(&container, wanted)?;
    let multiplexed = call.version >= capsid_api::version::ApiVersion { major: 1, minor: 42 };
    let kind = if form.terminal || !multiplexed { crate::hijack::RAW } else { crate::hijack::MULTIPLEXED };
    let (sender, reply) = http::streamed(kind);
    tokio::spawn(send(reader, form, sender));
    Ok(reply)
}

/// As Docker: what is not a number is everything.
fn tail(text: Option<&str>) -> Option<u64> {
    text.and_then(|text| text.parse().ok())
}

fn open(container: &Container, query: LogQuery) -> Result<LogReader> {
    let view = container.view();
    let position = match &view.live {
        Some(live) => live.log.position(),
        None if view.record.life.log.driver == "none" => return Err(not_kept()),
        None => LogPosition::of_stopped(&log_path(container.folder(), &view.record)),
    };
    LogReader::open(&position, query).map_err(|error| match error {
        LogReadError::NotKept => not_kept(),
        other => internal(&other),
    })
}

fn not_kept() -> ApiError {
    ApiError::new(hyper::StatusCode::NOT_IMPLEMENTED, LogReadError::NotKept.to_string())
}

async fn send(mut reader: LogReader, form: Form, sender: mpsc::Sender<Bytes>) {
    loop {
        let next = tokio::select! {
            next = reader.next() => next,
            () = sender.closed() => return,
        };
        let batch = match next {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(error) => {
                let text = format!("{}\n", capsid_runtime::error::describe(&error));
                let _ = sender.send(frame(FrameStream::System, text.as_bytes())).await;
                return;
            }
        };
        for piece in encode(&batch, form) {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    }
}

fn encode(batch: &LogBatch, form: Form) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let (mut piece, mut entry_bytes) = (Vec::new(), Vec::new());
    for entry in batch.entries() {
        entry_bytes.clear();
        entry.write_to(&mut entry_bytes, form.timestamps, form.details);
        if form.terminal {
            piece.extend_from_slice(&entry_bytes);
        } else {
            let stream = match entry.stream {
                LogStream::Stdout => FrameStream::Stdout,
                LogStream::Stderr => FrameStream::Stderr,
            };
            piece.extend_from_slice(&frame(stream, &entry_bytes));
        }
        if piece.len() >= PIECE_BYTES {
            pieces.push(std::mem::take(&mut piece).into());
        }
    }
    if !piece.is_empty() {
        pieces.push(piece.into());
    }
    pieces
}

/// What is in the log, as an attached client gets it before the live output.
pub(super) fn replay(container: &Container, stdout: bool, stderr: bool) -> Result<mpsc::Receiver<Bytes>> {
    let query = LogQuery { stdout, stderr, ..LogQuery::default() };
    let form = Form {
        terminal: container.view().record.options.terminal.is_some(),
        timestamps: false,
        details: false,
    };
    let reader = open(container, query)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(send(reader, form, sender));
    Ok(receiver)
}
