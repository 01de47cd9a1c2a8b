//! The way to the daemon: the one that was named, or the user's own, which is started when it does not run.

mod locate;
mod log;
mod start;

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use capsid_api::client::{Client, Endpoint};
use capsid_api::socket::{default_socket, default_state_folder, secure_folder};

pub(crate) use self::locate::daemon_program;
pub(crate) use self::start::become_daemon;
use crate::failure::Failure;

/// Variables that name a daemon, the stronger first.
const HOST_VARIABLES: [&str; 2] = ["CAPSID_HOST", "DOCKER_HOST"];

/// Which daemon is meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// `--host`.
    pub(crate) host: Option<String>,
    /// `--state-dir`.
    pub(crate) state: Option<PathBuf>,
    /// `--log-level`, for a daemon that has to be started.
    pub(crate) log: Option<String>,
}

impl Target {
    /// A client of that daemon, which is started if it is the user's own and does not run.
    ///
    /// # Errors
    ///
    /// When there is none to be had.
    pub(crate) async fn connect(&self) -> Result<Arc<Client>, Failure> {
        if let Some(host) = self.named_host() {
            return named(&host).map(Arc::new);
        }
        let socket = default_socket(self.state.as_deref());
        secure_folder(&socket)?;
        let connection = start::connect(&socket, self).await?;
        Ok(Arc::new(Client::new(Endpoint::Unix(socket)).with_connection(connection)))
    }

    /// The host that somebody named.
    fn named_host(&self) -> Option<String> {
        let variables = HOST_VARIABLES.iter().filter_map(|name| env::var(name).ok());
        self.host.iter().cloned().chain(variables).find(|host| !host.trim().is_empty())
    }

    /// The state folder of the user's own daemon, not relative to anything.
    fn state_folder(&self) -> Result<PathBuf, Failure> {
        let folder = match &self.state {
            Some(folder) => folder.clone(),
            None => default_state_folder()?,
        };
        Ok(std::path::absolute(folder)?)
    }
}

fn named(host: &str) -> Result<Client, Failure> {
    match host.parse::<Endpoint>()? {
        endpoint @ Endpoint::Unix(_) => Ok(Client::new(endpoint)),
        endpoint @ Endpoint::Tcp { .. } => Err(Failure::text(format!(
            "cannot connect to {endpoint}: tcp:// is not supported yet; name a socket as unix://PATH"
        ))),
    }
}
