//! A container's files: `/containers/{id}/archive`, `/changes` and `/export`, running or not.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use capsid_api::models::FilesystemChange;
use capsid_protocol::{ErrorCode, PathStat};
use capsid_runtime::agent::{Archive, WriteOptions, go_file_mode};
use capsid_runtime::containers::Container;
use capsid_runtime::driver::FilesMachine;
use capsid_runtime::error::ContainerError;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::error::{ApiError, Result, internal};
use crate::http::{self, BodyReader, CLIENT_PATIENCE, Reply};
use crate::routes::Call;

/// Tells a client what is at a path, as JSON in base64.
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");
/// How much of an archive is sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// `HEAD /containers/{id}/archive`.
pub(crate) async fn stat(call: &Call, id: &str) -> Result<Reply> {
    let (container, path) = (call.server.containers.find(id)?, path(call)?);
    let machine = container.files().await?;
    let found = machine.or_ended(machine.agent().stat_path(path)).await;
    let mut reply = http::empty(StatusCode::OK);
    put_stat(&mut reply, &found.map_err(|error| explain(error, path, id))?)?;
    Ok(reply)
}

/// `GET /containers/{id}/archive`.
pub(crate) async fn read(call: &Call, id: &str) -> Result<Reply> {
    let (container, path) = (call.server.containers.find(id)?, path(call)?);
    let machine = container.files().await?;
    let found = machine.or_ended(machine.agent().read_tree(path)).await;
    let (stat, archive) = found.map_err(|error| explain(error, path, id))?;
    let (sender, mut reply) = http::streamed_archive();
    put_stat(&mut reply, &stat)?;
    tokio::spawn(send(machine, archive, sender));
    call.server.containers.tell(&container, "archive-path", &[]);
    Ok(reply)
}

/// `GET /containers/{id}/export`.
pub(crate) async fn export(call: &Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    let machine = container.files().await?;
    let archive = machine.or_ended(machine.agent().export()).await?;
    let (sender, mut reply) = http::streamed_archive();
    let kind = HeaderValue::from_static("application/octet-stream");
    reply.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    tokio::spawn(send(machine, archive, sender));
    call.server.containers.tell(&container, "export", &[]);
    Ok(reply)
}

/// `PUT /containers/{id}/archive`.
pub(crate) async fn write(call: Call, id: &str) -> Result<Reply> {
    let (container, path) = (call.server.containers.find(id)?, path(&call)?.to_owned());
    let owner = call.query.flag("copyUIDGID").then(|| configured_user(&container)).flatten();
    let options = WriteOptions { no_overwrite_dir_non_dir: call.query.flag("noOverwriteDirNonDir"), owner };
    let machine = container.files().await?;
    let mut body = BodyReader::new(&call.body, CLIENT_PATIENCE);
    let written = machine.or_ended(machine.agent().write_tree(&path, &options, &mut body)).await;
    drop(machine);
    if written.is_err() {
        body.drain().await;
    }
    written.map_err(|error| explain(error, &path, id))?;
    call.server.containers.tell(&container, "extract-to-dir", &[]);
    Ok(http::empty(StatusCode::OK))
}

/// `GET /containers/{id}/changes`.
pub(crate) async fn changes(call: &Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    let machine = container.files().await?;
    let changes = machine.or_ended(machine.agent().changes()).await?;
    drop(machine);
    let changes = changes.into_iter().map(|change| {
        let kind = match change.kind {
            capsid_protocol::ChangeKind::Modified => capsid_api::models::ChangeType::_0,
            capsid_protocol::ChangeKind::Added => capsid_api::models::ChangeType::_1,
            capsid_protocol::ChangeKind::Deleted => capsid_api::models::ChangeType::_2,
        };
        FilesystemChange { path: change.path, kind }
    });
    let changes: Vec<_> = changes.collect();
    // As Docker: `null` when there are none.
    if changes.is_empty() { http::ok(&serde_json::Value::Null) } else { http::ok(&changes) }
}

fn path(call: &Call) -> Result<&str> {
    call.query.text("path").ok_or_else(|| ApiError::invalid("bad parameter: path cannot be empty"))
}

fn configured_user(container: &Container) -> Option<String> {
    let view = container.view();
    let user = view.record.documents["Config"]["User"].as_str().unwrap_or_default();
    (!user.is_empty()).then(|| user.to_owned())
}

fn explain(error: ContainerError, path: &str, container: &str) -> ApiError {
    if error.agent_code() == Some(ErrorCode::NotFound) {
        let message = format!("Could not find the file {path} in container {container}");
        return ApiError::not_found(message);
    }
    error.into()
}

fn put_stat(reply: &mut Reply, stat: &PathStat) -> Result<()> {
    let mtime = Timestamp::new(stat.mtime_seconds, i32::try_from(stat.mtime_nanoseconds).unwrap_or(0));
    let stat = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_file_mode(stat.mode),
        "mtime": mtime.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        "linkTarget": stat.link_target,
    });
    let value = HeaderValue::from_str(&STANDARD.encode(stat.to_string()));
    reply.headers_mut().insert(PATH_STAT, value.map_err(|error| internal(&error))?);
    Ok(())
}

/// Sends an archive; a failure in the middle breaks the connection off. The machine is given back at the end.
async fn send(machine: FilesMachine, mut archive: Archive, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = archive.read_buf(&mut piece);
        let read = async { read.await.map_err(|error| ContainerError::host("read the archive", error)) };
        let result = match machine.or_ended(read).await {
            Ok(0) => return,
            Ok(_) => Ok(piece.freeze()),
            Err(error) => Err(io::Error::other(error)),
        };
        let failed = result.is_err();
        let sent = tokio::time::timeout(CLIENT_PATIENCE, sender.send(result)).await;
        if failed || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}
