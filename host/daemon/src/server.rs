//! Connections: accepted from a socket, served with bounds on everything that a client can make long.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use capsid_runtime::artifacts::Artifacts;
use capsid_runtime::containers::Containers;
use capsid_runtime::engine::EngineChoice;
use capsid_runtime::folders::{FolderError, StateFolder};
use capsid_runtime::open::OpenError;
use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::metrics::Answers;
use crate::routes;

/// Most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// Most hijacked connections at once: they are no longer among those of [`MAX_CONNECTIONS`].
const MAX_SESSIONS: usize = 1024;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head. The longest honest one holds filters.
const MAX_HEAD_BYTES: usize = 256 << 10;
/// Docker's mode of the socket: its owner and its group may use it.
const SOCKET_MODE: u32 = 0o660;
/// Of a socket's folder that is made for it.
const FOLDER_MODE: u32 = 0o700;
/// How long connections have to come to their end when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept.
    pub state: PathBuf,
    /// The unix sockets to listen on.
    pub sockets: Vec<PathBuf>,
    /// Sockets that listen already, from whoever started this process.
    pub inherited: Vec<Arc<OwnedFd>>,
    /// The engine of containers that ask for none.
    pub engine: EngineChoice,
    /// The daemon ends when it had nothing to do for this long.
    pub idle_exit: Option<Duration>,
}

/// Why a daemon could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket cannot be listened on.
    #[error("failed to listen on {}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody listens there.
    #[error("another daemon listens on {}", .0.display())]
    InUse(PathBuf),
    /// Kernel, agent or monitor are missing.
    #[error(transparent)]
    Artifacts(#[from] capsid_runtime::artifacts::ArtifactError),
    /// The state cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl ServeError {
    /// Whether another daemon serves in this one's place.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, ServeError::InUse(_) | ServeError::Open(OpenError::Folder(FolderError::InUse { .. })))
    }
}

/// What every request can reach.
pub(crate) struct Server {
    pub(crate) containers: Containers,
    pub(crate) options: Options,
    pub(crate) answers: Answers,
    /// Connections, hijacked ones included.
    busy: AtomicUsize,
    sessions: Arc<Semaphore>,
    /// Told whenever something came to its end.
    calmed: Notify,
}

/// Held while something is under way that the daemon must not end for.
pub(crate) struct Busy(Arc<Server>);

/// Held while a hijacked connection is served.
pub(crate) struct SessionPlace {
    _busy: Busy,
    _place: OwnedSemaphorePermit,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.calmed.notify_one();
    }
}

impl Server {
    /// How many connections there are, hijacked ones included.
    pub(crate) fn connections(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// As [`Server::busy`], for a connection that is about to be hijacked.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(crate) fn session(self: &Arc<Self>) -> Result<SessionPlace, ApiError> {
        let place = Arc::clone(&self.sessions).try_acquire_owned();
        let place = place.map_err(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("more than {MAX_SESSIONS} clients are attached"),
            )
        })?;
        Ok(SessionPlace { _busy: self.busy(), _place: place })
    }

    /// Returns when nothing was to be done for so long.
    async fn idle(&self, limit: Duration) {
        let mut quiet_since = std::time::Instant::now();
        loop {
            let works = self.busy.load(Ordering::Acquire) > 0 || self.containers.any_needs_daemon();
            if works {
                quiet_since = std::time::Instant::now();
            } else if quiet_since.elapsed() >= limit {
                return;
            }
            let pause = limit.min(Duration::from_secs(1));
            let _ = tokio::time::timeout(pause, self.calmed.notified()).await;
        }
    }
}

/// Serves until `stop` is done. Containers are taken over from an earlier daemon before anything is listened to;
/// when this returns they go on, for the next one. `ready` is called once clients can connect.
///
/// # Errors
///
/// When the state or a socket cannot be had; nothing was changed then.
pub async fn serve(
    options: Options,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let artifacts = Artifacts::locate()?;
    // In this order: whoever has the folder may replace a dead daemon's socket, and whoever has both, take machines over.
    let state = StateFolder::open(&options.state).map_err(OpenError::from)?;
    let listeners = listen(&options)?;
    let containers = match Containers::open(state, artifacts, options.engine).await {
        Ok(containers) => containers,
        Err(error) => {
            remove_sockets(&options);
            return Err(error.into());
        }
    };
    let server = Arc::new(Server {
        containers,
        options,
        answers: Answers::default(),
        busy: AtomicUsize::new(0),
        sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
        calmed: Notify::new(),
    });
    for listener in listeners {
        tokio::spawn(accept(Arc::clone(&server), listener));
    }
    ready();
    let idle = async {
        match server.options.idle_exit {
            Some(limit) => server.idle(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop => tracing::info!("stopping; containers go on"),
        () = idle => tracing::info!("nothing to do: stopping"),
    }
    remove_sockets(&server.options);
    let drained = async {
        while server.busy.load(Ordering::Acquire) > 0 {
            server.calmed.notified().await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

/// Clients that come now find nobody, and need not wait to learn it.
fn remove_sockets(options: &Options) {
    for socket in &options.sockets {
        let _ = fs::remove_file(socket);
    }
}

fn listen(options: &Options) -> Result<Vec<UnixListener>, ServeError> {
    let mut listeners = Vec::new();
    for socket in &options.inherited {
        let failed = |source| ServeError::Listen { path: PathBuf::from("an inherited socket"), source };
        let listener = socket.try_clone().map(std::os::unix::net::UnixListener::from).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        listeners.push(UnixListener::from_std(listener).map_err(failed)?);
    }
    for path in &options.sockets {
        listeners.push(bind(path)?);
    }
    Ok(listeners)
}

/// Binds a socket; one that is left of a daemon that was killed is replaced.
fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ServeError::InUse(path.to_owned()));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(_) => {}
    }
    // Private from its first moment on; then as Docker has it.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

async fn accept(server: Arc<Server>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    serve_connection(server, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors: those that are open come to their end.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(server: Arc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let _busy = server.busy();
    let service = service_fn(move |request| routes::answer(Arc::clone(&server), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        // Clients come and go as they like.
        tracing::debug!(%error, "a connection ended");
    }
}
