//! A daemon's beginning: what an earlier one left is taken over or cleared before anything is served.

use std::collections::HashSet;
use std::sync::Arc;

use capsid_image::StoreError;

use crate::artifacts::Artifacts;
use crate::container::ContainerId;
use crate::containers::{Container, Containers, event_attributes};
use crate::engine::EngineChoice;
use crate::error::describe;
use crate::events::EventKind;
use crate::folders::{FolderError, StateFolder};
use crate::host::Host;
use crate::lifecycle::Phase;
use crate::run_folder::{RunFolderError, RunFolders};

/// Why a daemon could not begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder is of no use.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder of machines' sockets is of no use.
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    /// The images cannot be had.
    #[error("failed to open the images")]
    Images(#[from] StoreError),
}

impl Containers {
    /// Takes over what is in `state`: machines that run go on with their containers, machines that no container knows
    /// are ended, and containers whose machine has ended meanwhile are told so.
    ///
    /// # Errors
    ///
    /// When the state cannot be had. Machines go on then.
    pub async fn open(
        state: StateFolder,
        artifacts: Artifacts,
        engine: EngineChoice,
    ) -> Result<Containers, OpenError> {
        let run_folders = RunFolders::open(state.path())?;
        let (records, unreadable) = state.load()?;
        for path in unreadable {
            tracing::error!(path = %path.display(), "a container's record cannot be read; it is left alone");
        }
        let host = Arc::new(Host::new(state, run_folders, artifacts, engine)?);
        let containers = Containers { host };
        let alive: HashSet<ContainerId> = records
            .iter()
            .filter(|record| record.state.machine.is_some())
            .map(|record| record.id.clone())
            .collect();
        containers.host.run_folders.clear_orphans(&alive).await;
        let mut adoptions = tokio::task::JoinSet::new();
        for record in records {
            let folder = containers.host.state.container(&record.id);
            let (container, mut driver) = containers.assemble(record, folder);
            let containers = containers.clone();
            adoptions.spawn(async move {
                if let Some(live) = driver.recover().await {
                    containers.adopt_execs(&container, &live).await;
                    if let Err(error) = live.sandbox.hold_again().await {
                        told("it was paused, and may go on", container.id(), &error);
                    }
                } else {
                    container.execs.machine_ended();
                }
                tokio::spawn(driver.run());
            });
        }
        while adoptions.join_next().await.is_some() {}
        Ok(containers)
    }

    /// Whether something is under way that needs this daemon: a container that runs, or is to run again.
    #[must_use]
    pub fn any_needs_daemon(&self) -> bool {
        let needs = |container: &Container| {
            !matches!(container.view().phase(), Phase::Created | Phase::Exited | Phase::Dead)
        };
        self.index().by_id.values().any(needs)
    }

    /// Tells something that happened to a container.
    pub fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let mut attributes = event_attributes(&container.view().record);
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.host.events.tell(EventKind::Container, action, container.id().as_str(), attributes);
    }
}

/// A failure that does not keep the daemon from beginning.
pub(crate) fn told(what: &str, id: &ContainerId, error: &dyn std::error::Error) {
    tracing::warn!(container = %id.short(), "{what}: {}", describe(error));
}
