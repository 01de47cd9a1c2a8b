//! All containers of a daemon: made, found, listed, and what is asked of each.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::container::{ContainerId, ContainerName};
use crate::driver::{Change, Driver, DriverParts, FilesMachine, Message, Order, Outcome, RunNotes, View};
use crate::error::ContainerError;
use crate::events::EventKind;
use crate::exec::Execs;
use crate::folders::ContainerFolder;
use crate::host::{Host, Index};
use crate::lifecycle::{Decision, Refused, Request, decide};
use crate::live::Live;
use crate::record::{ContainerRecord, LifeOptions, StateRecord};
use crate::spec::{ContainerSpec, RunOptions};
use crate::streams::{RunStreams, Streams};

/// How often a random name is tried before one that cannot be taken.
const NAME_ATTEMPTS: u32 = 16;

/// Labels and attributes that events of a container carry.
pub(crate) fn event_attributes(record: &ContainerRecord) -> BTreeMap<String, String> {
    let mut attributes: BTreeMap<_, _> = record.options.labels.clone();
    attributes.insert("image".to_owned(), record.image.clone());
    attributes.insert("name".to_owned(), record.name.to_string());
    attributes
}

/// What a container is made from.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Its name; one is chosen if absent.
    pub name: Option<ContainerName>,
    /// The image as the user names it.
    pub image: String,
    /// Of machine, root and process.
    pub options: RunOptions,
    /// Of its life.
    pub life: LifeOptions,
    /// The wishes in the words of the interface that they came through.
    pub documents: serde_json::Value,
}

/// A container. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Container {
    id: ContainerId,
    orders: mpsc::UnboundedSender<Message>,
    view: watch::Receiver<Arc<View>>,
    streams: Arc<Streams>,
    folder: ContainerFolder,
    pub(crate) execs: Arc<Execs>,
}

/// Until when a wait lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Until it does not run, which may be now.
    NotRunning,
    /// Until its next end.
    NextExit,
    /// Until it is gone.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub struct Waited {
    /// The exit code.
    pub exit_code: u8,
    /// Why it did not start or ended, when that is more than its exit code.
    pub error: String,
    /// What else is to be said of the run, if this daemon saw its end.
    pub notes: Option<Arc<RunNotes>>,
}

impl Container {
    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// How it is now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &ContainerFolder {
        &self.folder
    }

    /// A watch on how it is.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    async fn order(&self, order: Order) -> Result<Outcome, ContainerError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ContainerError::NotFound(self.id.to_string());
        self.orders.send(Message::Order(order, reply)).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Starts it, and returns when its process runs.
    ///
    /// # Errors
    ///
    /// It is as it was, with the reason in its record.
    pub async fn start(&self) -> Result<Outcome, ContainerError> {
        self.order(Order::Start).await
    }

    /// Stops it: its stop signal or `signal`, then after its grace or `grace_s` SIGKILL. Returns when it has ended.
    ///
    /// # Errors
    ///
    /// Refused by its phase.
    pub async fn stop(&self, signal: Option<i32>, grace_s: Option<i64>) -> Result<Outcome, ContainerError> {
        self.order(Order::Stop { signal, grace_s }).await
    }

    /// Stops it if it runs, and starts it.
    ///
    /// # Errors
    ///
    /// As of both.
    pub async fn restart(
        &self,
        signal: Option<i32>,
        grace_s: Option<i64>,
    ) -> Result<Outcome, ContainerError> {
        self.order(Order::Restart { signal, grace_s }).await
    }

    /// Sends a signal to its process. SIGKILL does not wait for the end.
    ///
    /// # Errors
    ///
    /// Refused by its phase, or by the guest.
    pub async fn kill(&self, signal: i32) -> Result<Outcome, ContainerError> {
        self.order(Order::Kill { signal }).await
    }

    /// Holds its processors.
    ///
    /// # Errors
    ///
    /// Refused by its phase, or the machine's.
    pub async fn pause(&self) -> Result<Outcome, ContainerError> {
        self.order(Order::Pause).await
    }

    /// Lets its processors go on.
    ///
    /// # Errors
    ///
    /// Refused by its phase, or the machine's.
    pub async fn unpause(&self) -> Result<Outcome, ContainerError> {
        self.order(Order::Unpause).await
    }

    /// Removes it. Returns when nothing of it is left.
    ///
    /// # Errors
    ///
    /// Refused by its phase; or something could not be removed, and it is dead.
    pub async fn remove(&self, force: bool) -> Result<Outcome, ContainerError> {
        self.order(Order::Remove { force }).await
    }

    /// Changes its record. What is changed of limits is not told to the guest.
    ///
    /// # Errors
    ///
    /// Refused by its phase, or the record cannot be written.
    pub async fn update(
        &self,
        change: impl FnOnce(&mut ContainerRecord) + Send + Sync + 'static,
    ) -> Result<Outcome, ContainerError> {
        self.order(Order::Update { change: Box::new(Change(Box::new(change))) }).await
    }

    /// Whether a request that no driver is needed for is allowed now; its machine, if it has one. Waits until a passing
    /// phase has passed.
    ///
    /// # Errors
    ///
    /// Refused by its phase.
    pub async fn allow(&self, request: Request) -> Result<Option<Arc<Live>>, ContainerError> {
        let mut watch = self.view.clone();
        loop {
            let view = Arc::clone(&watch.borrow_and_update());
            match decide(view.phase(), request) {
                Decision::Later if !view.removed => {
                    if watch.changed().await.is_err() {
                        return Err(ContainerError::NotFound(self.id.to_string()));
                    }
                }
                Decision::Refuse(refused) => {
                    return Err(ContainerError::Refused { container: view.called(), request, refused });
                }
                _ => return Ok(view.live.clone()),
            }
        }
    }

    /// Its machine, for a request that only one with a running process can serve.
    ///
    /// # Errors
    ///
    /// Refused by its phase.
    pub async fn running(&self, request: Request) -> Result<Arc<Live>, ContainerError> {
        let called = self.view().called();
        let live = self.allow(request).await?;
        live.ok_or(ContainerError::Refused { container: called, request, refused: Refused::NotRunning })
    }

    /// A machine to work on its files in: its own while it runs, otherwise one for the purpose, which keeps it from
    /// being started or removed until the result is dropped.
    ///
    /// # Errors
    ///
    /// Refused by its phase, or there is no machine.
    pub async fn files(&self) -> Result<FilesMachine, ContainerError> {
        if let Some(live) = self.allow(Request::Files).await? {
            return Ok(FilesMachine::Running(live));
        }
        let (to, machine) = oneshot::channel();
        self.order(Order::Files { to }).await?;
        machine.await.map_err(|_| ContainerError::NotFound(self.id.to_string()))
    }

    /// The streams of its run, or of the next.
    #[must_use]
    pub fn streams(&self) -> Arc<RunStreams> {
        self.streams.current()
    }

    /// Begins to wait. What happens after this call counts, also before the result is awaited.
    pub fn wait(&self, until: WaitFor) -> impl Future<Output = Waited> + Send + 'static + use<> {
        let mut watch = self.view.clone();
        let seen = watch.borrow().ends;
        async move {
            let done = |view: &View| {
                view.removed
                    || match until {
                        WaitFor::NotRunning => !view.phase().counts_as_running(),
                        WaitFor::NextExit => view.ends > seen,
                        WaitFor::Removed => false,
                    }
            };
            // A driver that is gone has shown its last view.
            let _ = watch.wait_for(|view| done(view)).await;
            let last = Arc::clone(&watch.borrow());
            let state = &last.record.state;
            // Who waits for the removal of what never ran hears why from its start.
            let never_ran = until == WaitFor::Removed && last.ends == seen;
            let error = if never_ran { String::new() } else { state.error.clone() };
            Waited { exit_code: state.exit_code, error, notes: last.last_run.clone() }
        }
    }
}

/// All containers of a daemon. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Containers {
    pub(crate) host: Arc<Host>,
}

impl Containers {
    /// What all containers share.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Makes a container. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// Nothing is left of it.
    pub fn create(&self, new: NewContainer) -> Result<Container, ContainerError> {
        let id =
            ContainerId::generate().map_err(|error| ContainerError::host("get random numbers", error))?;
        let hold = self.host.images.hold().map_err(|error| ContainerError::host("hold the images", error))?;
        let image = self.host.image(&new.image)?;
        let spec = ContainerSpec::merge(&image.config, &new.options, id.short(), 1)?;
        let name = self.reserve(new.name, &id)?;
        let record = ContainerRecord {
            id: id.clone(),
            name: name.clone(),
            created: Timestamp::now(),
            image: new.image,
            image_id: image.id.to_string(),
            command: spec.process.args,
            options: new.options,
            life: new.life,
            documents: Arc::new(new.documents),
            state: StateRecord::default(),
        };
        let made = self.make_folder(&record);
        drop(hold);
        match made {
            Ok(folder) => {
                let attributes = event_attributes(&record);
                let (container, driver) = self.assemble(record, folder);
                tokio::spawn(driver.run());
                self.host.events.tell(EventKind::Container, "create", id.as_str(), attributes);
                Ok(container)
            }
            Err(error) => {
                self.host.forget(&id, &name);
                Err(error)
            }
        }
    }

    fn make_folder(&self, record: &ContainerRecord) -> Result<ContainerFolder, ContainerError> {
        let folder = self.host.state.create(&record.id)?;
        if let Err(error) = folder.save(record, !record.life.auto_remove) {
            let _ = folder.remove();
            return Err(error.into());
        }
        Ok(folder)
    }

    /// A container in the index, and its driver, which does not run yet.
    pub(crate) fn assemble(&self, record: ContainerRecord, folder: ContainerFolder) -> (Container, Driver) {
        let streams = Arc::new(Streams::default());
        let (id, name, created) = (record.id.clone(), record.name.clone(), record.created);
        let execs = Arc::new(Execs::load(&folder));
        let (driver, orders, view) = Driver::new(DriverParts {
            host: Arc::clone(&self.host),
            folder: folder.clone(),
            record,
            streams: Arc::clone(&streams),
        });
        let container = Container { id: id.clone(), orders, view, streams, folder, execs };
        let mut index = self.index_mut();
        index.by_name.insert(name.to_string(), id.clone());
        for exec in container.execs.ids() {
            index.execs.insert(exec, id.clone());
        }
        index.by_age.insert((created, id.clone()), container.clone());
        index.by_id.insert(id, container.clone());
        (container, driver)
    }

    /// Takes a name for a container that is being made.
    fn reserve(
        &self,
        name: Option<ContainerName>,
        id: &ContainerId,
    ) -> Result<ContainerName, ContainerError> {
        let mut index = self.index_mut();
        if let Some(name) = name {
            return claim(&mut index, name, id);
        }
        for _ in 0..NAME_ATTEMPTS {
            let name = ContainerName::generate()
                .map_err(|error| ContainerError::host("get random numbers", error))?;
            if let Ok(name) = claim(&mut index, name, id) {
                return Ok(name);
            }
        }
        claim(&mut index, ContainerName::try_from(format!("c{}", id.short()))?, id)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    ///
    /// Another container has it, or the phase refuses.
    pub async fn rename(&self, container: &Container, name: ContainerName) -> Result<(), ContainerError> {
        let old = container.view().record.name.clone();
        claim(&mut self.index_mut(), name.clone(), &container.id)?;
        let renamed = container.order(Order::Rename { name: name.clone() }).await;
        let mut index = self.index_mut();
        let freed = if renamed.is_ok() { &old } else { &name };
        if *freed != container.view().record.name {
            index.by_name.remove(freed.as_str());
        }
        renamed.map(drop)
    }

    /// The container with that identifier, name, or unambiguous start of an identifier, in this order.
    ///
    /// # Errors
    ///
    /// [`ContainerError::NotFound`] and [`ContainerError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<Container, ContainerError> {
        let index = self.index();
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let whole = ContainerId::try_from(name.to_owned()).ok();
        let exact = whole.as_ref().or_else(|| index.by_name.get(name));
        if let Some(container) = exact.and_then(|id| index.by_id.get(id)) {
            return Ok(container.clone());
        }
        let not_found = || ContainerError::NotFound(reference.to_owned());
        if name.is_empty() {
            return Err(not_found());
        }
        let mut matching = index.by_id.values().filter(|container| container.id.as_str().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous(reference.to_owned())),
            (None, _) => Err(not_found()),
        }
    }

    /// The container that an exec is of.
    ///
    /// # Errors
    ///
    /// [`ContainerError::NoExec`].
    pub fn find_exec(&self, exec: &str) -> Result<Container, ContainerError> {
        let index = self.index();
        let container = index.execs.get(exec).and_then(|id| index.by_id.get(id));
        container.cloned().ok_or_else(|| ContainerError::NoExec(exec.to_owned()))
    }

    /// Every container, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<View>> {
        self.index().by_age.values().rev().map(Container::view).collect()
    }

    /// Every container's handle.
    #[must_use]
    pub fn all(&self) -> Vec<Container> {
        self.index().by_id.values().cloned().collect()
    }

    pub(crate) fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.host.containers.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.host.containers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn claim(index: &mut Index, name: ContainerName, id: &ContainerId) -> Result<ContainerName, ContainerError> {
    match index.by_name.get(name.as_str()) {
        Some(owner) => Err(ContainerError::NameTaken { name, owner: owner.to_string() }),
        None => {
            index.by_name.insert(name.to_string(), id.clone());
            Ok(name)
        }
    }
}
