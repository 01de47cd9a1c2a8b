//! `capsidd`: the daemon's program.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use capsid_api::extensions::STATE_FOLDER_TAKEN;
use capsid_api::socket::{default_socket, default_state_folder, secure_folder};
use capsid_daemon::{Options, ServeError, TcpAddress, serve};
use capsid_runtime::engine::EngineChoice;
use clap::{CommandFactory, Parser, ValueEnum};
use listenfd::ListenFd;
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
    /// Where to listen: unix://PATH, fd:// (sockets of systemd's), or tcp://ADDRESS:PORT with the three --tls options
    #[arg(short = 'H', long = "host", value_name = "URL", env = "CAPSID_HOST")]
    hosts: Vec<String>,
    /// Where images and containers are kept
    #[arg(long, value_name = "DIR", env = "CAPSID_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// For TCP: the authority whose clients are let in (PEM)
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// For TCP: the daemon's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// For TCP: the daemon's key (PEM)
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Accepted for those who say it: over TCP, clients are always verified
    #[arg(long)]
    tlsverify: bool,
    /// What runs the machines of containers that ask for nothing else
    #[arg(long, value_enum, env = "CAPSID_ENGINE")]
    engine: Option<EngineName>,
    /// End when there was nothing to do for a minute
    #[arg(long)]
    on_demand: bool,
    /// Write the manual's page to this file instead of serving
    #[arg(long, value_name = "FILE", hide = true)]
    manual: Option<PathBuf>,
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
    if let Some(path) = &arguments.manual {
        let page = clap_mangen::Man::new(Arguments::command());
        let file =
            std::fs::File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        return page.render(&mut &file).context("failed to write the manual's page");
    }
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let state = match arguments.state_dir.clone() {
        Some(folder) => folder,
        None => default_state_folder()?,
    };
    let Places { sockets, inherited, tcp } = Places::of(&arguments)?;
    let options = Options {
        sockets,
        inherited,
        tcp,
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
        serve(options, stop, ready).await?;
        Ok(())
    })
}

/// Tells whoever reads the log, and systemd if it started this.
fn ready() {
    tracing::info!("ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "failed to tell the service manager");
    }
}

/// Everywhere that a daemon listens.
#[derive(Default)]
struct Places {
    sockets: Vec<PathBuf>,
    inherited: Vec<Arc<OwnedFd>>,
    tcp: Vec<TcpAddress>,
}

impl Places {
    fn of(arguments: &Arguments) -> anyhow::Result<Places> {
        let mut places = Places { inherited: inherited()?, ..Places::default() };
        if arguments.hosts.is_empty() && places.inherited.is_empty() {
            // Clients go there without being told: nobody else may listen in its place. Where a socket is that was
            // asked for is the asker's matter.
            let socket = default_socket(arguments.state_dir.as_deref());
            secure_folder(&socket)?;
            places.sockets.push(socket);
        }
        for host in &arguments.hosts {
            match host.split_once("://") {
                Some(("unix", path)) => places.sockets.push(PathBuf::from(path)),
                Some(("tcp", address)) => places.tcp.push(tcp(arguments, address)?),
                Some(("fd", _)) if !places.inherited.is_empty() => {}
                Some(("fd", _)) => bail!("cannot listen on {host}: no sockets were handed over"),
                _ => bail!("cannot listen on {host}: neither unix://PATH, tcp://ADDRESS:PORT nor fd://"),
            }
        }
        Ok(places)
    }
}

/// The sockets that systemd, or whoever does as it does, listens on (sd_listen_fds(3)).
fn inherited() -> anyhow::Result<Vec<Arc<OwnedFd>>> {
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        let taken =
            handed.take_unix_listener(index).context("a socket that was handed over is no unix socket")?;
        sockets.extend(taken.map(|listener| Arc::new(OwnedFd::from(listener))));
    }
    Ok(sockets)
}

fn tcp(arguments: &Arguments, address: &str) -> anyhow::Result<TcpAddress> {
    let (Some(authority), Some(certificate), Some(key)) =
        (&arguments.tlscacert, &arguments.tlscert, &arguments.tlskey)
    else {
        bail!(
            "cannot listen on tcp://{address}: over TCP, --tlscacert, --tlscert and --tlskey must be given"
        );
    };
    let tls = Arc::new(capsid_daemon::tls::server(authority, certificate, key)?);
    Ok(TcpAddress { address: address.to_owned(), tls })
}
