//! `capsid-vmm`: runs one virtual machine until it ends.
//!
//! Exit status: 0 when the machine ended, 1 when it failed or could not be built, 2 when the configuration is wrong.

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;

use capsid_vmm::config::{Descriptor, Engine, MachineConfig};
use capsid_vmm::engine::EngineError;
use capsid_vmm::machine::KvmMachine;
use capsid_vmm::observer::{Observer, milestone, now_us};
use capsid_vmm::parts::{self, LauncherSide, MachineParts};
use capsid_vmm::{confine, emulated, supervisor};

const USAGE: &str = "usage: capsid-vmm --config-fd NUMBER";
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let started_us = now_us();
    let (engine, parts, launcher, observer) = match prepare(started_us) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("capsid-vmm: {}", capsid_vmm::engine::describe(error.as_ref()));
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match engine {
        Engine::Kvm => supervisor::run(launcher, &observer, |observer| KvmMachine::start(parts, observer)),
        Engine::Emulated => supervisor::run(launcher, &observer, |observer| emulated::start(parts, observer)),
    }
}

fn prepare(started_us: u64) -> Result<(Engine, MachineParts, LauncherSide, Observer), EngineError> {
    confine::drop_ambitions()?;
    let config = read_config()?;
    config.validate()?;
    let observer = Observer::new(config.console_bytes);
    observer.reached_at(milestone::PROCESS_START, started_us);
    let (engine, parts, launcher) = parts::take(config)?;
    Ok((engine, parts, launcher, observer))
}

fn read_config() -> Result<MachineConfig, EngineError> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let number = match arguments.as_slice() {
        [option, number] if option == "--config-fd" => number.to_str().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let file = File::from(parts::take_descriptor(Descriptor(number.ok_or(USAGE)?))?);
    Ok(serde_json::from_str(&std::io::read_to_string(file)?)?)
}
