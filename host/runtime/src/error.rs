//! Why something was not done to a container: in the words that Docker's clients look for.

use std::sync::Arc;

use capsid_protocol::ErrorCode;

use crate::agent::{AgentError, FilesError};
use crate::container::{ContainerName, NameError};
use crate::folders::FolderError;
use crate::lifecycle::{Refused, Request};
use crate::sandbox::SandboxError;
use crate::spec::SpecError;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// There is no such container.
    #[error("No such container: {0}")]
    NotFound(String),
    /// Several identifiers start like this.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// Another container has the name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove \
         (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: ContainerName,
        /// The other container's identifier.
        owner: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Something that cannot be had.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The request does not fit the container's phase.
    #[error("{}", wording(.container, *.request, *.refused))]
    Refused {
        /// The container, as it is called.
        container: Called,
        /// What was asked.
        request: Request,
        /// Why not.
        refused: Refused,
    },
    /// There is no such image.
    #[error("No such image: {0}")]
    NoImage(String),
    /// The image cannot be used.
    #[error("failed to use the image {image}")]
    Image {
        /// The image.
        image: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Program and arguments cannot be started.
    #[error("{message}")]
    Command {
        /// 126 or 127, as shells tell it.
        exit_code: u8,
        /// The reason.
        message: String,
    },
    /// The container's machine cannot be had, or failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The agent refuses or failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Work on its files failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The state folder failed.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Something of the host's failed.
    #[error("failed to {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such exec.
    #[error("No such exec instance: {0}")]
    NoExec(String),
    /// The exec ran already.
    #[error("exec {0} has already run")]
    ExecRan(String),
    /// Somebody else's request, which this one waited with, failed.
    #[error("{}", describe(.0.as_ref()))]
    Shared(Arc<ContainerError>),
    /// The daemon is stopping.
    #[error("the daemon is shutting down")]
    Stopping,
}

impl ContainerError {
    /// Wraps a failure of the host's.
    pub fn host(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ContainerError {
        ContainerError::Host { action, source: source.into() }
    }

    /// The same, in messages that call the container as the user did.
    #[must_use]
    pub fn calling(self, name: &str) -> ContainerError {
        match self {
            ContainerError::Refused { container, request, refused } => {
                let container = Called { name: name.to_owned(), ..container };
                ContainerError::Refused { container, request, refused }
            }
            other => other,
        }
    }

    /// The agent's code, if the agent refused.
    #[must_use]
    pub fn agent_code(&self) -> Option<ErrorCode> {
        match self {
            ContainerError::Shared(error) => error.agent_code(),
            ContainerError::Files(error) => error.code(),
            ContainerError::Agent(error)
            | ContainerError::Sandbox(SandboxError::Agent { source: error, .. }) => error.code(),
            _ => None,
        }
    }
}

/// A container as messages call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Its identifier.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
}

/// Docker's words (moby 28, `daemon/`).
fn wording(called: &Called, request: Request, refused: Refused) -> String {
    let Called { id, name } = called;
    match (request, refused) {
        (Request::Start, Refused::IsPaused) => {
            "cannot start a paused container, try unpause instead".to_owned()
        }
        (Request::Start | Request::Restart, Refused::IsRemoved) => {
            "container is marked for removal and cannot be started".to_owned()
        }
        (Request::Remove { .. }, Refused::IsRunning) => {
            let advice = "stop the container before removing or force remove";
            format!("cannot remove container \"{name}\": container is running: {advice}")
        }
        (Request::Remove { .. }, Refused::IsPaused) => {
            format!("cannot remove container \"{name}\": container is paused and must be unpaused first")
        }
        (Request::Remove { .. }, Refused::IsRestarting) => {
            let advice = "stop the container before removing or force remove";
            format!("cannot remove container \"{name}\": container is restarting: {advice}")
        }
        (Request::Exec, Refused::IsPaused) => {
            format!("Container {name} is paused, unpause the container before exec")
        }
        (Request::Attach, Refused::IsPaused) => {
            format!("container {id} is paused, unpause the container before attach")
        }
        (Request::Files, Refused::IsPaused) => {
            format!("container {id} is paused, unpause the container before working on its files")
        }
        (Request::Attach, Refused::IsRestarting) => {
            format!("container {id} is restarting, wait until the container is running")
        }
        (_, Refused::NotRunning) => format!("container {id} is not running"),
        (_, Refused::AlreadyPaused) => format!("Container {id} is already paused"),
        (_, Refused::NotPaused) => format!("Container {id} is not paused"),
        (_, Refused::IsPaused) => format!("Container {id} is paused"),
        (_, Refused::IsRunning) => format!("Container {id} is running"),
        (_, Refused::IsRestarting) => {
            format!("Container {id} is restarting, wait until the container is running")
        }
        (_, Refused::IsRemoved) => format!("container {id} is marked for removal"),
    }
}

/// The whole chain in one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        // A transparent error repeats its source's words.
        if !text.ends_with(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        next = source.source();
    }
    text
}
