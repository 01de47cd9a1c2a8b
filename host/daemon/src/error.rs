//! From errors to statuses: the one place where it is decided.

use capsid_protocol::ErrorCode;
use capsid_runtime::error::{ContainerError, describe};
use capsid_runtime::lifecycle::{Refused, Request};
use hyper::StatusCode;

/// What a client is told instead of what it asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into() }
    }

    /// The request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, message)
    }

    /// Something that Docker has and capsid has not yet.
    pub(crate) fn unsupported(what: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_IMPLEMENTED, format!("{what} not supported by capsid yet"))
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl From<ContainerError> for ApiError {
    fn from(error: ContainerError) -> ApiError {
        ApiError::new(status(&error), describe(&error))
    }
}

fn status(error: &ContainerError) -> StatusCode {
    match error {
        ContainerError::Shared(error) => status(error),
        ContainerError::NotFound(_) | ContainerError::NoImage(_) | ContainerError::NoExec(_) => {
            StatusCode::NOT_FOUND
        }
        ContainerError::Ambiguous(_)
        | ContainerError::Name(_)
        | ContainerError::Spec(_)
        | ContainerError::Command { .. } => StatusCode::BAD_REQUEST,
        ContainerError::NameTaken { .. } | ContainerError::ExecRan(_) => StatusCode::CONFLICT,
        // Docker has no code of its own for this one.
        ContainerError::Refused { request: Request::Unpause, refused: Refused::NotPaused, .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ContainerError::Refused { .. } => StatusCode::CONFLICT,
        ContainerError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ContainerError::Agent(_) | ContainerError::Sandbox(_) | ContainerError::Files(_) => {
            match error.agent_code() {
                Some(ErrorCode::InvalidArgument) => StatusCode::BAD_REQUEST,
                Some(ErrorCode::NotFound) => StatusCode::NOT_FOUND,
                Some(ErrorCode::Conflict | ErrorCode::InvalidState) => StatusCode::CONFLICT,
                Some(ErrorCode::Unsupported) => StatusCode::NOT_IMPLEMENTED,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
        ContainerError::Image { .. } | ContainerError::Folder(_) | ContainerError::Host { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// A failure of the host's, with its whole chain.
pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::internal(describe(error))
}

/// Does work that waits for disks or locks, in a thread that serves nobody meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))?
}
