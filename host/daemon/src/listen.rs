//! Where clients come in: unix sockets, those that somebody else listens on already, and TCP with TLS on both sides.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::server::{Options, ServeError};

/// Docker's mode of the socket: its owner and its group may use it.
const SOCKET_MODE: u32 = 0o660;
/// Of a socket's folder that is made for it.
const FOLDER_MODE: u32 = 0o700;

/// An address of TCP, whose clients prove who they are.
#[derive(Debug, Clone)]
pub struct TcpAddress {
    /// `HOST:PORT`.
    pub address: String,
    /// With a verifier of clients; [`crate::tls::server`] makes it so.
    pub tls: Arc<ServerConfig>,
}

pub(crate) enum Listener {
    Unix(UnixListener),
    Tls(TcpListener, TlsAcceptor),
}

/// A client that has come, and on TCP has still to prove who it is.
pub(crate) enum Arrival {
    Unix(tokio::net::UnixStream),
    Tls(TcpStream, TlsAcceptor),
}

/// A connection, whatever it came over.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        match self {
            Listener::Unix(listener) => Ok(Arrival::Unix(listener.accept().await?.0)),
            Listener::Tls(listener, acceptor) => {
                Ok(Arrival::Tls(listener.accept().await?.0, acceptor.clone()))
            }
        }
    }
}

impl Arrival {
    /// The connection, once its client is known. May take as long as the client wants.
    pub(crate) async fn introduce(self) -> io::Result<Box<dyn Connection>> {
        match self {
            Arrival::Unix(stream) => Ok(Box::new(stream)),
            Arrival::Tls(stream, acceptor) => {
                stream.set_nodelay(true)?;
                Ok(Box::new(acceptor.accept(stream).await?))
            }
        }
    }
}

/// Listens everywhere that is asked for.
pub(crate) async fn listen(options: &Options) -> Result<Vec<Listener>, ServeError> {
    let mut listeners = Vec::new();
    for socket in &options.inherited {
        let failed = |source| ServeError::Listen { place: "an inherited socket".to_owned(), source };
        listeners.push(Listener::Unix(inherited(socket).map_err(failed)?));
    }
    for path in &options.sockets {
        listeners.push(Listener::Unix(bind(path)?));
    }
    for TcpAddress { address, tls } in &options.tcp {
        let bound = TcpListener::bind(address).await;
        let bound = bound.map_err(|source| ServeError::Listen { place: address.clone(), source })?;
        listeners.push(Listener::Tls(bound, TlsAcceptor::from(Arc::clone(tls))));
    }
    Ok(listeners)
}

fn inherited(socket: &OwnedFd) -> io::Result<UnixListener> {
    let listener = socket.try_clone().map(std::os::unix::net::UnixListener::from)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Clients that come now find nobody, and need not wait to learn it. Inherited ones stay whoever's they are.
pub(crate) fn remove_sockets(options: &Options) {
    for socket in &options.sockets {
        let _ = fs::remove_file(socket);
    }
}

/// Binds a socket; one that is left of a daemon that was killed is replaced.
fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen { place: path.display().to_string(), source };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ServeError::InUse(PathBuf::from(path)));
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
