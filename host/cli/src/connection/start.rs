//! Starting the user's own daemon, and connecting to it.
//!
//! ```text
//!  connect ──▶ somebody listens: done
//!     ▲ nobody
//!     │        not started yet ──▶ start one
//!     └─ wait ◀ it comes up, or another keeps the folder and is about to listen, or to end
//!              it died ──▶ say why
//! ```
//!
//! Two clients at once both start one; the daemon's lock on its state folder lets one live, and its socket serves both.

use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capsid_api::client::{ClientError, Endpoint};
use capsid_api::extensions::STATE_FOLDER_TAKEN;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::log::Log;
use super::{Target, daemon_program};
use crate::failure::Failure;

/// How long a daemon may take until it listens. It does before it looks at its containers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a state folder may be another's who does not listen: a daemon that stops lets its connections end first.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Of a state folder that is made here.
const FOLDER_MODE: u32 = 0o700;

/// A daemon that is coming up.
struct Starting {
    child: Child,
    log: Log,
}

/// A connection to the daemon at `socket`, which is started if nobody listens there.
pub(super) async fn connect(socket: &Path, target: &Target) -> Result<UnixStream, Failure> {
    let begun = Instant::now();
    let mut starting: Option<Starting> = None;
    let mut taken_since: Option<Instant> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) if is_nobody(&error) => {}
            Err(error) => return Err(refused(socket, error).into()),
        }
        match &mut starting {
            None => starting = Some(start(target)?),
            Some(daemon) => match daemon.child.try_wait()? {
                None => {}
                Some(status) if status.code() == Some(STATE_FOLDER_TAKEN.into()) => {
                    let since = *taken_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > TAKEN_TIMEOUT {
                        return Err(taken(socket, &daemon.log));
                    }
                    // The next attempt finds the other listening, or the folder free.
                    starting = None;
                }
                Some(status) => {
                    let message =
                        format!("the capsid daemon did not start ({status}):\n{}", daemon.log.tail());
                    return Err(Failure::text(message.trim_end().trim_end_matches(':')));
                }
            },
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(Failure::text(format!(
                "the capsid daemon does not listen on {} after {} s{}",
                socket.display(),
                START_TIMEOUT.as_secs(),
                starting.map_or(String::new(), |daemon| format!(": see {}", daemon.log.path().display())),
            )));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn refused(socket: &Path, source: io::Error) -> ClientError {
    let endpoint = Endpoint::Unix(socket.to_owned());
    if source.kind() == io::ErrorKind::PermissionDenied {
        ClientError::NotAllowed { endpoint }
    } else {
        ClientError::Connect { endpoint, source }
    }
}

fn taken(socket: &Path, log: &Log) -> Failure {
    Failure::text(format!(
        "another daemon keeps the state folder, and does not listen on {}: name its socket with --host\n{}",
        socket.display(),
        log.tail(),
    ))
}

/// Starts a daemon that ends when it had nothing to do for a while.
fn start(target: &Target) -> Result<Starting, Failure> {
    let state = target.state_folder()?;
    let program = daemon_program().ok_or_else(|| {
        Failure::text("the capsid daemon does not run, and its program 'capsidd' is neither beside this one nor in PATH")
    })?;
    let failed = |error: io::Error| {
        Failure::text(format!("failed to use the state folder {}: {error}", state.display()))
    };
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&state).map_err(failed)?;
    let (log, file) = Log::open(&state).map_err(failed)?;
    // By way of this program, which makes a session of its own of itself first: a terminal's signals are not for daemons.
    let mut command = Command::new(env::current_exe()?);
    command.arg("become-daemon").arg(program).arg("--on-demand").arg("--state-dir").arg(&state);
    if let Some(level) = &target.log {
        command.arg("--log").arg(level);
    }
    // It listens where its clients look for it, and is no service of whoever manages this process.
    for variable in ["CAPSID_HOST", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(variable);
    }
    // And it keeps no folder from being unmounted but its own.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let child = command
        .spawn()
        .map_err(|error| Failure::text(format!("failed to start the capsid daemon: {error}")))?;
    Ok(Starting { child, log })
}

/// Goes on as `program`, in a session of its own.
pub(crate) fn become_daemon(command: &[OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::text("become-daemon needs a program");
    };
    if let Err(error) = rustix::process::setsid() {
        return Failure::text(format!("failed to start a session: {error}"));
    }
    let error = Command::new(program).args(arguments).exec();
    Failure::text(format!("failed to start {}: {error}", Path::new(program).display()))
}
