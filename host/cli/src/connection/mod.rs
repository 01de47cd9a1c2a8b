//! The way to the daemon: the one that was named, or the user's own, which is started when it does not run.

mod locate;
mod log;
mod start;

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use capsid_api::client::{Client, Endpoint, TlsFiles};
use capsid_api::socket::{default_socket, default_state_folder, secure_folder};

pub(crate) use self::locate::daemon_program;
pub(crate) use self::start::become_daemon;
use crate::failure::Failure;

/// Variables that name a daemon, the stronger first.
const HOST_VARIABLES: [&str; 2] = ["CAPSID_HOST", "DOCKER_HOST"];

/// Names the folder of a client's certificates, as for Docker's client.
const CERTIFICATES_VARIABLE: &str = "DOCKER_CERT_PATH";

/// Which daemon is meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// `--host`.
    pub(crate) host: Option<String>,
    /// `--state-dir`.
    pub(crate) state: Option<PathBuf>,
    /// `--log-level`, for a daemon that has to be started.
    pub(crate) log: Option<String>,
    /// `--tlscacert`, `--tlscert` and `--tlskey`.
    pub(crate) tls: (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>),
}

impl Target {
    /// A client of that daemon, which is started if it is the user's own and does not run.
    ///
    /// # Errors
    ///
    /// When there is none to be had.
    pub(crate) async fn connect(&self) -> Result<Arc<Client>, Failure> {
        if let Some(host) = self.named_host() {
            return self.named(&host).map(Arc::new);
        }
        let socket = default_socket(self.state.as_deref());
        secure_folder(&socket)?;
        let connection = start::connect(&socket, self).await?;
        Ok(Arc::new(Client::new(Endpoint::Unix(socket)).with_connection(connection)))
    }

    fn named(&self, host: &str) -> Result<Client, Failure> {
        let endpoint = host.parse::<Endpoint>()?;
        if matches!(endpoint, Endpoint::Unix(_)) {
            return Ok(Client::new(endpoint));
        }
        let files = self.tls_files()?;
        Ok(Client::new(endpoint).with_tls(files.read()?))
    }

    /// The certificates that were named, and those of Docker's client for the others.
    fn tls_files(&self) -> Result<TlsFiles, Failure> {
        let named = env::var_os(CERTIFICATES_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folder = named.or_else(|| Some(env::home_dir()?.join(".docker")));
        let folder =
            folder.ok_or_else(|| Failure::text("there is no home folder to look for certificates in"))?;
        let usual = TlsFiles::in_folder(&folder);
        let (authority, certificate, key) = self.tls.clone();
        Ok(TlsFiles {
            authority: authority.unwrap_or(usual.authority),
            certificate: certificate.unwrap_or(usual.certificate),
            key: key.unwrap_or(usual.key),
        })
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
