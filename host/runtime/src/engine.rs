//! Which engine runs a machine: KVM where it works, the emulator where it does not.

use std::env;
use std::path::{Path, PathBuf};

use capsid_vmm::Engine;
use capsid_vmm::probe::{Probe, probe_remembered};
use serde::{Deserialize, Serialize};

/// The emulator's program, from Debian's `qemu-system-x86`.
const EMULATOR: &str = "qemu-system-x86_64";

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// KVM if it can run a kernel here, the emulator otherwise.
    #[default]
    Automatic,
    /// KVM or nothing.
    Kvm,
    /// The emulator, wherever.
    Emulated,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenEngine {
    /// The engine.
    pub engine: Engine,
    /// The emulator's program, if it is needed.
    pub emulator: Option<PathBuf>,
    /// What the user should know about the choice, one line: set when nobody asked for it.
    pub notice: Option<String>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// KVM was asked for and cannot be had.
    #[error("KVM cannot be used here: {0}")]
    Kvm(String),
    /// There is no emulator, and KVM was not asked for or cannot be had.
    #[error("{EMULATOR} is not in PATH: install it (Debian's package qemu-system-x86){}", because(.kvm))]
    NoEmulator {
        /// Why KVM does not serve instead.
        kvm: Option<String>,
    },
}

fn because(kvm: &Option<String>) -> String {
    kvm.as_ref().map(|reason| format!(", or make KVM usable: {reason}")).unwrap_or_default()
}

/// Chooses. What KVM can do here is measured once for each boot of this machine and remembered in `cache`.
///
/// # Errors
///
/// When what is asked for, or everything, is out of reach.
pub fn choose_engine(choice: EngineChoice, cache: &Path) -> Result<ChosenEngine, EngineError> {
    let unusable = match choice {
        EngineChoice::Emulated => return emulator(None).map(|path| emulated(path, None)),
        EngineChoice::Automatic | EngineChoice::Kvm => match probe_remembered(cache) {
            Probe::Usable { .. } => {
                return Ok(ChosenEngine { engine: Engine::Kvm, emulator: None, notice: None });
            }
            Probe::Unusable { reason } => reason.to_string(),
        },
    };
    if choice == EngineChoice::Kvm {
        return Err(EngineError::Kvm(unusable));
    }
    let notice = format!("KVM cannot be used here ({unusable}); the machine is emulated, which is slower");
    emulator(Some(unusable)).map(|path| emulated(path, Some(notice)))
}

fn emulated(emulator: PathBuf, notice: Option<String>) -> ChosenEngine {
    ChosenEngine { engine: Engine::Emulated, emulator: Some(emulator), notice }
}

fn emulator(kvm: Option<String>) -> Result<PathBuf, EngineError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(EMULATOR)).find(|program| program.is_file());
    found.ok_or(EngineError::NoEmulator { kvm })
}
