//! A server without a socket, for fuzzing: bytes in, bytes out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capsid_runtime::artifacts::Artifacts;
use capsid_runtime::containers::Containers;
use capsid_runtime::engine::EngineChoice;
use capsid_runtime::folders::StateFolder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{Options, ServeError, Server, serve_connection};

/// What is between the two ends of a connection.
const PIPE_BYTES: usize = 64 << 10;

/// A server that has no way to run a machine, and everything else.
pub struct Detached {
    server: Arc<Server>,
}

impl Detached {
    /// Opens a state folder, which may be new.
    ///
    /// # Errors
    ///
    /// As of serving from it.
    pub async fn open(state: PathBuf) -> Result<Detached, ServeError> {
        let nothing = PathBuf::from("/dev/null");
        let artifacts = Artifacts {
            kernel: nothing.clone(),
            initramfs: nothing.clone(),
            writable_template: nothing.clone(),
            monitor: nothing,
        };
        let folder = StateFolder::open(&state).map_err(capsid_runtime::open::OpenError::from)?;
        let containers = Containers::open(folder, artifacts, EngineChoice::Emulated).await?;
        let options = Options {
            state,
            sockets: Vec::new(),
            tcp: Vec::new(),
            inherited: Vec::new(),
            engine: EngineChoice::Emulated,
            idle_exit: None,
        };
        Ok(Detached { server: Server::new(containers, options) })
    }

    /// Gives a connection these bytes and then its end, and takes what comes back. What goes on without end, as events
    /// do, is cut off after `patience`.
    pub async fn converse(&self, sent: &[u8], patience: Duration) -> Vec<u8> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let serving = tokio::spawn(serve_connection(Arc::clone(&self.server), Box::new(far)));
        let (mut from_server, mut to_server) = tokio::io::split(near);
        let mut answer = Vec::new();
        let both = async {
            let send = async {
                let _ = to_server.write_all(sent).await;
                let _ = to_server.shutdown().await;
            };
            let (_, ()) = tokio::join!(from_server.read_to_end(&mut answer), send);
        };
        let _ = tokio::time::timeout(patience, both).await;
        serving.abort();
        answer
    }

    /// Removes every container.
    pub async fn clear(&self) {
        for container in self.server.containers.all() {
            let _ = container.remove(true).await;
        }
    }
}
