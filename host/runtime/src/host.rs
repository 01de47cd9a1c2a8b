//! What all containers of a daemon share.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use capsid_image::{Image, ResolveError, Store, StoreError};

use jiff::Timestamp;

use crate::artifacts::Artifacts;
use crate::container::{ContainerId, ContainerName};
use crate::containers::Container;
use crate::engine::{ChosenEngine, EngineChoice, choose_engine};
use crate::error::ContainerError;
use crate::events::Events;
use crate::figures::StartTimes;
use crate::folders::StateFolder;
use crate::run_folder::RunFolders;

/// What all containers of a daemon share.
#[derive(Debug)]
pub struct Host {
    /// Where everything is kept.
    pub state: StateFolder,
    /// Where machines have their sockets.
    pub run_folders: RunFolders,
    /// Kernel, agent and monitor.
    pub artifacts: Artifacts,
    /// The images.
    pub images: Store,
    /// What happens.
    pub events: Events,
    /// The engine of containers that ask for none.
    pub default_engine: EngineChoice,
    /// How long starts took.
    pub start_times: StartTimes,
    /// Turns of machines that boot: a hundred at once would take so long that none came up in its time.
    pub(crate) boots: tokio::sync::Semaphore,
    engines: Mutex<HashMap<EngineChoice, ChosenEngine>>,
    pub(crate) containers: RwLock<Index>,
}

/// Every container, by identifier and by name. Newest last.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) by_id: HashMap<ContainerId, Container>,
    /// In the order of their making.
    pub(crate) by_age: BTreeMap<(Timestamp, ContainerId), Container>,
    pub(crate) by_name: HashMap<String, ContainerId>,
    /// Which container an exec is of.
    pub(crate) execs: HashMap<String, ContainerId>,
}

/// How many machines boot at once, for each processor of the host: some of a boot is waiting.
const BOOTS_PER_PROCESSOR: usize = 2;
/// At least so many do.
const LEAST_BOOTS: usize = 4;

fn boots_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors * BOOTS_PER_PROCESSOR).max(LEAST_BOOTS)
}

impl Host {
    pub(crate) fn new(
        state: StateFolder,
        run_folders: RunFolders,
        artifacts: Artifacts,
        default_engine: EngineChoice,
    ) -> Result<Host, StoreError> {
        let images = Store::open(state.path())?;
        Ok(Host {
            state,
            run_folders,
            artifacts,
            images,
            events: Events::default(),
            default_engine,
            start_times: StartTimes::default(),
            boots: tokio::sync::Semaphore::new(boots_at_once()),
            engines: Mutex::default(),
            containers: RwLock::default(),
        })
    }

    /// The image with that name or identifier.
    ///
    /// # Errors
    ///
    /// [`ContainerError::NoImage`], and the store's.
    pub fn image(&self, name: &str) -> Result<Image, ContainerError> {
        self.images.resolve(name).map_err(|error| match error {
            ResolveError::NotFound(name) => ContainerError::NoImage(name),
            other => ContainerError::Image { image: name.to_owned(), source: Box::new(other) },
        })
    }

    /// What runs the machine of a container with that wish. What the host can do is found out once.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    pub fn engine(&self, choice: EngineChoice) -> Result<ChosenEngine, ContainerError> {
        let choice = if choice == EngineChoice::Automatic { self.default_engine } else { choice };
        if let Some(engine) = self.lock_engines().get(&choice) {
            return Ok(engine.clone());
        }
        let engine = choose_engine(choice, self.state.path())
            .map_err(|error| ContainerError::host("find an engine for the machine", error))?;
        self.lock_engines().insert(choice, engine.clone());
        Ok(engine)
    }

    fn lock_engines(&self) -> std::sync::MutexGuard<'_, HashMap<EngineChoice, ChosenEngine>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the daemon keeps everything.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        self.state.path()
    }

    /// A container is gone: its name is free.
    pub(crate) fn forget(&self, id: &ContainerId, name: &ContainerName) {
        let mut index = self.containers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = index.by_id.remove(id) {
            index.by_age.remove(&(container.view().record.created, id.clone()));
        }
        if index.by_name.get(name.as_str()) == Some(id) {
            index.by_name.remove(name.as_str());
        }
        index.execs.retain(|_, container| container != id);
    }
}
