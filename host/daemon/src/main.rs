//! `capsidd`: the daemon's program.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use capsid_api::extensions::STATE_FOLDER_TAKEN;
use capsid_api::socket::{default_socket, default_state_folder, secure_folder};
use capsid_daemon::{Options, ServeError, serve};
use capsid_runtime::engine::EngineChoice;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long a daemon that was started on demand waits for something to do.
const IDLE_EXIT: Duration = Duration::from_secs(60);

/// The daemon that owns images and containers, and serves Docker's Engine API.
///
/// Its socket is as good as the rights of the user that it runs as.
#[derive(Debug, Parser)]
#[command(name = "capsidd", version)]
struct Arguments {
    /// Stay in the foreground (the daemon always does; the flag is there for those who say it)
    #[arg(long)]
    foreground: bool,
    /// Where to listen: unix://PATH
    #[arg(short = 'H', long = "host", value_name = "URL", env = "CAPSID_HOST")]
    hosts: Vec<String>,
    /// Where images and containers are kept
    #[arg(long, value_name = "DIR", env = "CAPSID_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// What runs the machines of containers that ask for nothing else
    #[arg(long, value_enum, env = "CAPSID_ENGINE")]
    engine: Option<EngineName>,
    /// End when there was nothing to do for a minute
    #[arg(long)]
    on_demand: bool,
    /// What is logged, as tracing-subscriber's filters write it, e.g. `debug` or `capsid_daemon=debug`
    #[arg(long, value_name = "FILTER", env = "CAPSID_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineName {
    Kvm,
    Emulated,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsidd: {error:#}");
            match error.downcast_ref::<ServeError>() {
                Some(error) if error.is_taken() => ExitCode::from(STATE_FOLDER_TAKEN),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let state = match arguments.state_dir.clone() {
        Some(folder) => folder,
        None => default_state_folder()?,
    };
    let options = Options {
        sockets: sockets(&arguments)?,
        inherited: Vec::<Arc<_>>::new(),
        state,
        engine: match arguments.engine {
            None => EngineChoice::Automatic,
            Some(EngineName::Kvm) => EngineChoice::Kvm,
            Some(EngineName::Emulated) => EngineChoice::Emulated,
        },
        idle_exit: arguments.on_demand.then_some(IDLE_EXIT),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the daemon's threads")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("failed to listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for signals")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(options, stop, || tracing::info!("ready")).await?;
        Ok(())
    })
}

fn sockets(arguments: &Arguments) -> anyhow::Result<Vec<PathBuf>> {
    if arguments.hosts.is_empty() {
        // Clients go there without being told: nobody else may listen in its place. Where a socket is that was asked
        // for is the asker's matter.
        let socket = default_socket(arguments.state_dir.as_deref());
        secure_folder(&socket)?;
        return Ok(vec![socket]);
    }
    let mut sockets = Vec::new();
    for host in &arguments.hosts {
        match host.strip_prefix("unix://") {
            Some(path) => sockets.push(PathBuf::from(path)),
            None => bail!("cannot listen on {host}: only unix:// sockets are supported"),
        }
    }
    Ok(sockets)
}
