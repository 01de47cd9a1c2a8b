//! `POST /containers/{id}/attach` and `GET /containers/{id}/attach/ws`.

use capsid_runtime::lifecycle::Request;

use crate::error::Result;
use crate::hijack::{self, Ended, Session};
use crate::http::Reply;
use crate::routes::Call;
use crate::websocket;

pub(crate) async fn attach(call: Call, id: &str) -> Result<Reply> {
    let (session, ended) = session(&call, id).await?;
    Ok(hijack::start(call.head, session, async { Ok(()) }, ended))
}

/// Over a websocket everything is raw, whatever it comes from.
pub(crate) async fn attach_websocket(call: Call, id: &str) -> Result<Reply> {
    let (session, ended) = session(&call, id).await?;
    websocket::start(call.head, Session { terminal: true, ..session }, ended)
}

async fn session(call: &Call, id: &str) -> Result<(Session, impl FnOnce(Ended) + Send + use<>)> {
    let container = call.server.containers.find(id)?;
    let detach_keys = hijack::detach_keys(call.query.text("detachKeys"))?;
    container.allow(Request::Attach).await?;
    let view = container.view();
    let record = &view.record;
    let terminal = record.options.terminal.is_some();
    let streams = container.streams();
    let wants = |name: &str| call.query.flag(name);
    let stream = wants("stream");
    let hears = stream && (wants("stdout") || wants("stderr"));
    let replay = if wants("logs") {
        Some(super::logs::replay(&container, wants("stdout"), wants("stderr"))?)
    } else {
        None
    };
    let session = Session {
        output: hears.then(|| streams.subscribe()),
        replay,
        stdin: stream && wants("stdin") && record.options.stdin,
        stdout: wants("stdout"),
        stderr: wants("stderr"),
        terminal,
        close_stdin: record.life.stdin_once && !terminal,
        detach_keys: if terminal { detach_keys } else { Vec::new() },
        multiplexed_type: call.version >= capsid_api::version::ApiVersion { major: 1, minor: 42 },
        place: Some(call.server.session()?),
        streams,
    };
    let events = call.server.containers.clone();
    events.tell(&container, "attach", &[]);
    let told = move |ended| {
        if ended == Ended::Detached {
            events.tell(&container, "detach", &[]);
        }
    };
    Ok((session, told))
}
