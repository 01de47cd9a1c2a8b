//! `capsid`: containers, each in a virtual machine of its own, by the verbs and flags of `docker`.
//!
//! Each verb parses, calls and prints; what there is to decide is decided in the crates below.

#![forbid(unsafe_code)]

mod failure;
mod images;
mod load;
mod ps;
mod rm;
mod rmi;
mod run;
mod signals;
mod state;
mod stdio;
mod table;
mod terminal;
mod timings;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use capsid_runtime::timeline::HostMoment;
use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::state::State;

/// Runs each container in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "capsid", version, max_term_width = 100)]
struct Arguments {
    /// Folder of images and containers [default: /var/lib/capsid for root, $XDG_DATA_HOME/capsid for others]
    #[arg(long, env = "CAPSID_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command in a new container
    Run(Box<run::RunArguments>),
    /// Load images from an archive (OCI layout, oci-archive, docker-archive) or from standard input
    Load(load::LoadArguments),
    /// List images
    Images(images::ImagesArguments),
    /// Remove one or more images
    Rmi(rmi::RmiArguments),
    /// List containers
    Ps(ps::PsArguments),
    /// Remove one or more containers
    Rm(rm::RmArguments),
}

fn main() -> ExitCode {
    let started = HostMoment::now();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::report_usage(&error),
    };
    match call(arguments, started) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

fn call(arguments: Arguments, started: HostMoment) -> Result<u8, Failure> {
    let state = State::locate(arguments.state_dir)?;
    match arguments.verb {
        Verb::Run(arguments) => run::run(*arguments, &state, started),
        Verb::Load(arguments) => load::load(arguments, &state),
        Verb::Images(arguments) => images::images(&arguments, &state),
        Verb::Rmi(arguments) => rmi::rmi(&arguments, &state),
        Verb::Ps(arguments) => ps::ps(&arguments, &state),
        Verb::Rm(arguments) => rm::rm(&arguments, &state),
    }
}
