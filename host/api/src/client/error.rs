//! Why a request got no answer, or one that refuses.

use std::io;

use hyper::StatusCode;

use super::Endpoint;

/// Why a request failed. The text of each is what `docker` says, with this daemon's name.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("Cannot connect to the capsid daemon at {endpoint}. Is the capsid daemon running?")]
    NotRunning {
        /// Where.
        endpoint: Endpoint,
    },
    /// The socket is somebody else's.
    #[error("permission denied while trying to connect to the capsid daemon socket at {endpoint}")]
    NotAllowed {
        /// Where.
        endpoint: Endpoint,
    },
    /// The connection could not be made.
    #[error("error during connect: {endpoint}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The daemon understood, and refuses.
    #[error("Error response from daemon: {message}")]
    Refused {
        /// HTTP's reason.
        status: StatusCode,
        /// The daemon's.
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to the daemon broke")]
    Broken(#[source] hyper::Error),
    /// A stream's connection failed.
    #[error("the connection to the daemon broke")]
    Stream(#[source] io::Error),
    /// The request cannot be written as HTTP: a header or a path with forbidden characters.
    #[error("the request cannot be made")]
    Unwritable(#[source] hyper::http::Error),
    /// The body to send could not be made.
    #[error("failed to encode the request")]
    Encode(#[source] serde_json::Error),
    /// The answer is not what the API promises.
    #[error("the daemon's answer to {path} is malformed")]
    Malformed {
        /// What was asked for.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value of a stream is longer than any that the API has.
    #[error("the daemon's answer to {path} has a value of more than {limit} bytes")]
    TooLong {
        /// What was asked for.
        path: String,
        /// The most that is taken.
        limit: usize,
    },
    /// The daemon did not turn the connection into a stream.
    #[error("unable to upgrade to tcp, received {0}")]
    NotUpgraded(StatusCode),
}

impl ClientError {
    /// HTTP's status, if the daemon refused.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            ClientError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the daemon says that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Whether there was no daemon to talk to.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            ClientError::NotRunning { .. } | ClientError::NotAllowed { .. } | ClientError::Connect { .. }
        )
    }
}
