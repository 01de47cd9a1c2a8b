//! The command line: what comes before the verb, and the table of verbs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{container, daemon, documents, image, system};
use crate::connection::Target;

/// Runs each container in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "capsid", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Daemon to connect to: unix://PATH [default: $CAPSID_HOST, $DOCKER_HOST, or the user's own]
    #[arg(short = 'H', long, value_name = "URL")]
    host: Option<String>,
    /// For tcp://, which is always verified: the authority that signs daemons [default: ca.pem in $DOCKER_CERT_PATH, or in
    /// ~/.docker]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// For tcp://: this client's certificate [default: cert.pem there]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// For tcp://: its key [default: key.pem there]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Folder of images and containers of the user's own daemon, which is started when it does not run [default:
    /// /var/lib/capsid for root, $XDG_DATA_HOME/capsid for others]
    #[arg(long, env = "CAPSID_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What a daemon that is started logs: error, warn, info, debug or trace
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Arguments {
    /// The daemon that is meant.
    pub(crate) fn target(&self) -> Target {
        let tls = (self.tlscacert.clone(), self.tlscert.clone(), self.tlskey.clone());
        Target { host: self.host.clone(), state: self.state_dir.clone(), log: self.log_level.clone(), tls }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(flatten)]
    Container(container::Verb),
    /// List containers
    Ps(container::ls::ListArguments),
    #[command(flatten)]
    Image(image::Verb),
    /// List images
    Images(image::ls::ListArguments),
    /// Remove one or more images
    Rmi(image::rm::RemoveArguments),
    /// Return low-level information on containers and images
    Inspect(system::inspect::InspectArguments),
    #[command(flatten)]
    System(system::Verb),
    /// Show the versions of client and daemon
    Version(system::version::VersionArguments),
    /// Manage containers
    #[command(name = "container", subcommand)]
    ContainerGroup(container::GroupVerb),
    /// Manage images
    #[command(name = "image", subcommand)]
    ImageGroup(image::GroupVerb),
    /// Manage the daemon's state
    #[command(name = "system", subcommand)]
    SystemGroup(system::GroupVerb),
    /// Run the daemon, capsidd, with its own flags
    Daemon(daemon::DaemonArguments),
    /// Print a script that completes commands: source it, or put it where your shell looks
    Completion(documents::CompletionArguments),
    /// Write the manual's pages
    #[command(hide = true)]
    Manual(documents::ManualArguments),
    /// What a client becomes that starts a daemon
    #[command(hide = true)]
    BecomeDaemon {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}
