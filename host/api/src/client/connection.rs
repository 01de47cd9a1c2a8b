//! Connections to a daemon.

use std::fmt::Debug;
use std::io;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{ClientError, Endpoint, RequestBody, Tls};

/// What carries the bytes.
pub(super) trait Transport: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Transport for T {}

/// A transport of any kind.
pub(super) type AnyTransport = Box<dyn Transport>;

/// Makes a connection ready for one request: the one that is there, or a new one. A task drives it until it is over.
pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    ready: Option<UnixStream>,
) -> Result<SendRequest<RequestBody>, ClientError> {
    let transport = match ready {
        Some(stream) => Box::new(stream),
        None => dial(endpoint, tls).await.map_err(|source| refused(endpoint, source))?,
    };
    let (requests, connection) =
        http1::handshake(TokioIo::new(transport)).await.map_err(ClientError::Broken)?;
    tokio::spawn(async move {
        // Whoever waits for the answer is told of the failure.
        let _ = connection.with_upgrades().await;
    });
    Ok(requests)
}

async fn dial(endpoint: &Endpoint, tls: Option<&Tls>) -> io::Result<AnyTransport> {
    Ok(match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match tls {
                Some(tls) => Box::new(tls.wrap(host, stream).await?),
                None => Box::new(stream),
            }
        }
    })
}

fn refused(endpoint: &Endpoint, source: io::Error) -> ClientError {
    let endpoint = endpoint.clone();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { endpoint },
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { endpoint },
        _ => ClientError::Connect { endpoint, source },
    }
}
