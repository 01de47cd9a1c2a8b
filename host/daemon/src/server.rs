//! Connections: accepted from a socket, served with bounds on everything that a client can make long.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::listen::{Connection, Listener, TcpAddress, listen, remove_sockets};
use crate::metrics::Answers;
use crate::routes;

/// Most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// Most hijacked connections at once: they are no longer among those of [`MAX_CONNECTIONS`].
const MAX_SESSIONS: usize = 1024;
/// Most transfers of images at once: far fewer than the runtime has threads that may wait (512).
const MAX_TRANSFERS: usize = 64;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head. The longest honest one holds filters.
const MAX_HEAD_BYTES: usize = 256 << 10;
/// How long it may take at most until a connection that is made is accepted.
const LAST_ACCEPT: Duration = Duration::from_millis(50);
/// How long connections have to come to their end when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept.
    pub state: PathBuf,
    /// The unix sockets to listen on.
    pub sockets: Vec<PathBuf>,
    /// The addresses of TCP to listen on.
    pub tcp: Vec<TcpAddress>,
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
    #[error("failed to listen on {place}")]
    Listen {
        /// The socket's path or address.
        place: String,
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
    /// Uploads and downloads of images: each has a thread, of which there are not endlessly many.
    transfers: Arc<Semaphore>,
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
    pub(crate) fn new(containers: Containers, options: Options) -> Arc<Server> {
        Arc::new(Server {
            containers,
            options,
            answers: Answers::default(),
            busy: AtomicUsize::new(0),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            calmed: Notify::new(),
        })
    }

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

    /// A place for the upload or the download of images.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(crate) fn transfer(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.transfers).try_acquire_owned();
        place.map_err(|_| {
            let message = format!("more than {MAX_TRANSFERS} transfers of images are under way");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })
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
    let listeners = listen(&options).await?;
    let containers = match Containers::open(state, artifacts, options.engine).await {
        Ok(containers) => containers,
        Err(error) => {
            remove_sockets(&options);
            return Err(error.into());
        }
    };
    let server = Server::new(containers, options);
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
    // Nobody can connect any more; who has already, and waits to be accepted, is still served.
    tokio::time::sleep(LAST_ACCEPT).await;
    let drained = async {
        while server.busy.load(Ordering::Acquire) > 0 {
            server.calmed.notified().await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

async fn accept(server: Arc<Server>, listener: Listener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(arrival) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    match tokio::time::timeout(HEAD_TIMEOUT, arrival.introduce()).await {
                        Ok(Ok(stream)) => serve_connection(server, stream).await,
                        Ok(Err(error)) => tracing::info!(%error, "a client was refused"),
                        Err(_) => tracing::info!("a client that did not say who it is was refused"),
                    }
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

pub(crate) async fn serve_connection(server: Arc<Server>, stream: Box<dyn Connection>) {
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
