//! A client of the Engine API: requests over HTTP/1.1, answers whole or as they come, and connections that become
//! streams.
//!
//! Each request has a connection of its own: on one machine that costs next to nothing, and no request waits for
//! another's answer.

mod body;
mod connection;
mod endpoint;
mod error;
mod json;
mod request;
mod response;
mod tls;
mod upgrade;

use std::sync::{Mutex, PoisonError};

use hyper::Method;
use tokio::net::UnixStream;

pub use self::body::{BodySender, RequestBody};
pub use self::endpoint::{Endpoint, EndpointError};
pub use self::error::ClientError;
pub use self::json::JsonStream;
pub use self::request::{Request, segment};
pub use self::response::Response;
pub use self::tls::{Tls, TlsError, TlsFiles};
pub use self::upgrade::{Receiver, Sender, Upgraded};
use crate::version::{ApiVersion, NEWEST, OLDEST};

/// The oldest version of a server that does not say its own (Docker's client assumes the same).
const UNSAID: ApiVersion = OLDEST;

/// A daemon to talk to.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    version: Mutex<ApiVersion>,
    /// A connection that nothing was asked on yet.
    ready: Mutex<Option<UnixStream>>,
    /// For TCP.
    tls: Option<Tls>,
}

impl Client {
    /// A client that speaks the newest version. Nothing is sent yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Client {
        Client { endpoint, version: Mutex::new(NEWEST), ready: Mutex::new(None), tls: None }
    }

    /// The same, with a connection to the daemon for the first request: whoever had to find out whether it runs has one.
    #[must_use]
    pub fn with_connection(self, connection: UnixStream) -> Client {
        Client { ready: Mutex::new(Some(connection)), ..self }
    }

    /// The same, with TLS if it connects over TCP.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Client {
        Client { tls: Some(tls), ..self }
    }

    fn take_ready(&self) -> Option<UnixStream> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where the daemon is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version that requests are made in.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Speaks this version from now on.
    pub fn set_version(&self, version: ApiVersion) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Asks the daemon for its version, and speaks the older of its and ours from now on.
    ///
    /// A request that the daemon refuses for its version does that by itself, and is made again if it can be: needed
    /// beforehand only where what is asked depends on the version.
    ///
    /// # Errors
    ///
    /// [`ClientError`], when the daemon cannot be reached or gives no answer.
    pub async fn negotiate(&self) -> Result<ApiVersion, ClientError> {
        let answer = Request::unversioned(self, Method::HEAD, "/_ping").send().await?;
        let said = answer.header("api-version").and_then(|text| text.parse().ok()).unwrap_or(UNSAID);
        let version = said.min(NEWEST);
        self.set_version(version);
        Ok(version)
    }

    /// A request for what is at `path`, which begins with a slash and has no version.
    pub fn get(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, Method::GET, path)
    }

    /// A request for the headers of what is at `path`.
    pub fn head(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, Method::HEAD, path)
    }

    /// A request to do what `path` names.
    pub fn post(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, Method::POST, path)
    }

    /// A request to put a body at `path`.
    pub fn put(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, Method::PUT, path)
    }

    /// A request to delete what is at `path`.
    pub fn delete(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, Method::DELETE, path)
    }
}

#[cfg(test)]
mod tests;
