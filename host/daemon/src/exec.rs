//! `/exec`, and `POST /containers/{id}/exec`.

use capsid_api::models::{ExecConfig, ExecStartConfig};
use capsid_protocol::{Identity, ProcessId, ProcessSpec, TerminalSize};
use capsid_runtime::exec::{ExecRecord, ExecState};
use capsid_runtime::lifecycle::Request;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::containers::process_options;
use crate::error::{ApiError, Result};
use crate::hijack::{self, Session};
use crate::http::{self, Reply};
use crate::names;
use crate::routes::Call;

pub(crate) async fn create(call: Call, id: &str) -> Result<Reply> {
    let containers = call.server.containers.clone();
    let container = containers.find(id)?;
    let document: Value = http::read_json(&call.body).await?;
    let document = normalise(document);
    let config: ExecConfig = serde_json::from_value(document.clone())
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let args = config.cmd.clone().unwrap_or_default();
    if args.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    hijack::detach_keys(config.detach_keys.as_deref().filter(|keys| !keys.is_empty()))?;
    let live = container.running(Request::Exec).await?;
    let process = process(&config, args, &live.process)?;
    let record = containers.create_exec(&container, process, document).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": record.id }))
}

fn normalise(mut document: Value) -> Value {
    if let Some(object) = document.as_object_mut() {
        names::settle::<ExecConfig>(object);
        if let Some(Value::String(text)) = object.get("Cmd") {
            let list = json!([text]);
            object.insert("Cmd".to_owned(), list);
        }
        object.retain(|_, value| !value.is_null());
    }
    document
}

/// As the container's own process, but for what is asked.
fn process(config: &ExecConfig, args: Vec<String>, own: &ProcessSpec) -> Result<ProcessSpec> {
    let mut env = own.env.clone();
    for setting in config.env.iter().flatten() {
        let name = setting.split('=').next().unwrap_or_default();
        env.retain(|known| known.split('=').next() != Some(name));
        if setting.contains('=') {
            env.push(setting.clone());
        }
    }
    let terminal = config.tty.unwrap_or(false);
    if terminal && !env.iter().any(|setting| setting.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let cwd = config.working_dir.clone().filter(|path| !path.is_empty());
    if cwd.as_ref().is_some_and(|path| !path.starts_with('/')) {
        return Err(ApiError::invalid("the working directory is invalid, it needs to be an absolute path"));
    }
    let user = config.user.clone().filter(|user| !user.is_empty());
    let identity = match user {
        Some(user) => Identity { user, additional_groups: own.identity.additional_groups.clone() },
        None => own.identity.clone(),
    };
    let privileged = config.privileged.unwrap_or(false);
    Ok(ProcessSpec {
        process: ProcessId::INIT,
        args,
        env,
        cwd: cwd.unwrap_or_else(|| own.cwd.clone()),
        identity,
        terminal: terminal.then(|| console_size(config.console_size.as_deref())),
        stdin: config.attach_stdin.unwrap_or(false),
        rlimits: own.rlimits.clone(),
        capabilities: if privileged {
            capsid_protocol::Capability::ALL.to_vec()
        } else {
            own.capabilities.clone()
        },
        no_new_privileges: own.no_new_privileges && !privileged,
        init: false,
    })
}

fn console_size<N: Copy + TryInto<u16>>(size: Option<&[N]>) -> TerminalSize {
    match size {
        Some([rows, columns]) => {
            let side = |number: N| number.try_into().unwrap_or(u16::MAX);
            TerminalSize { rows: side(*rows), columns: side(*columns) }
        }
        _ => process_options(),
    }
}

pub(crate) async fn start(call: Call, id: &str) -> Result<Reply> {
    let containers = call.server.containers.clone();
    let mut document: Value = http::read_json(&call.body).await?;
    if let Some(object) = document.as_object_mut() {
        names::settle::<ExecStartConfig>(object);
    }
    let config: Option<ExecStartConfig> = serde_json::from_value(document)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let config = config.unwrap_or_default();
    let (container, record, streams) = containers.exec(id)?;
    container.allow(Request::Exec).await?;
    if record.state != ExecState::Created {
        return Err(capsid_runtime::error::ContainerError::ExecRan(id.to_owned()).into());
    }
    let size = config.console_size.as_ref().map(|size| console_size(Some(size.as_slice())));
    if config.detach.unwrap_or(false) {
        containers.start_exec(&container, id, size).await?;
        return Ok(http::empty(StatusCode::OK));
    }
    let asked: ExecConfig = serde_json::from_value(record.documents.clone()).unwrap_or_default();
    let terminal = record.process.terminal.is_some();
    let keys = hijack::detach_keys(asked.detach_keys.as_deref().filter(|keys| !keys.is_empty()))?;
    let session = Session {
        output: Some(streams.subscribe()),
        replay: None,
        stdin: record.process.stdin,
        stdout: asked.attach_stdout.unwrap_or(false) || terminal,
        stderr: asked.attach_stderr.unwrap_or(false),
        // As Docker's daemon: whoever starts it says whether its output is raw, not whoever made it.
        terminal: config.tty.unwrap_or(false),
        close_stdin: true,
        detach_keys: if terminal { keys } else { Vec::new() },
        multiplexed_type: call.version >= capsid_api::version::ApiVersion { major: 1, minor: 42 },
        place: Some(call.server.session()?),
        streams,
    };
    let id = id.to_owned();
    let begin = async move { Ok(containers.start_exec(&container, &id, size).await?) };
    Ok(hijack::start(call.head, session, begin, |_| {}))
}

pub(crate) async fn resize(call: &Call, id: &str) -> Result<Reply> {
    let size = crate::containers::life::size(&call.query)?;
    let containers = &call.server.containers;
    let (container, record, _) = containers.exec(id)?;
    if record.process.terminal.is_some() {
        containers.resize_exec(&container, &record, size).await?;
    }
    Ok(http::empty(StatusCode::OK))
}

pub(crate) fn inspect(call: &Call, id: &str) -> Result<Reply> {
    let (container, record, _) = call.server.containers.exec(id)?;
    http::ok(&describe(&container.id().to_string(), &record))
}

fn describe(container: &str, record: &ExecRecord) -> Value {
    let (running, code, pid) = match record.state {
        ExecState::Created => (false, Value::Null, 0),
        ExecState::Running { pid } => (true, Value::Null, pid),
        ExecState::Exited { code, pid } => (false, json!(code), pid),
    };
    let asked = &record.documents;
    let flag = |name: &str| asked[name].as_bool().unwrap_or(false);
    let (entrypoint, arguments) =
        record.process.args.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    json!({
        "ID": record.id,
        "Running": running,
        "ExitCode": code,
        "ProcessConfig": {
            "tty": flag("Tty"),
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": flag("Privileged"),
            "user": asked["User"].as_str().unwrap_or_default(),
        },
        "OpenStdin": flag("AttachStdin"),
        "OpenStderr": flag("AttachStderr"),
        "OpenStdout": flag("AttachStdout"),
        "CanRemove": false,
        "ContainerID": container,
        "DetachKeys": asked["DetachKeys"].as_str().unwrap_or_default(),
        "Pid": pid,
    })
}
