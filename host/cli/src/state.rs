//! Where images and containers are kept.

use std::cell::OnceCell;
use std::env;
use std::fs::File;
use std::path::PathBuf;

use capsid_image::Store;
use capsid_runtime::folders::share;
use capsid_runtime::store::ContainerStore;
use rustix::process::geteuid;

use crate::failure::Failure;

/// The state folder of this call.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    // Keeps daemons from taking the folder while this process works in it.
    shared: OnceCell<File>,
}

impl State {
    /// The folder that was asked for, or the user's own.
    pub(crate) fn locate(asked: Option<PathBuf>) -> Result<State, Failure> {
        if let Some(folder) = asked {
            return Ok(State { folder, shared: OnceCell::new() });
        }
        if geteuid().is_root() {
            return Ok(State { folder: PathBuf::from("/var/lib/capsid"), shared: OnceCell::new() });
        }
        let data = env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
        data.map(|folder| State { folder: folder.join("capsid"), shared: OnceCell::new() }).ok_or_else(|| {
            Failure::text("neither --state-dir, XDG_DATA_HOME nor HOME says where to keep images")
        })
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The images.
    pub(crate) fn images(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.folder)?)
    }

    /// The containers, set right if their processes were killed.
    pub(crate) fn containers(&self) -> Result<ContainerStore, Failure> {
        if self.shared.get().is_none() {
            let _ = self.shared.set(share(&self.folder)?);
        }
        let store = ContainerStore::open(&self.folder)?;
        store.sweep()?;
        Ok(store)
    }
}
