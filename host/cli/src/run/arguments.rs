//! Flags and words of `capsid run`, and what they ask of a container.

use std::net::IpAddr;
use std::path::PathBuf;

use capsid_protocol::{Rlimit, TmpfsMount};
use capsid_runtime::container::ContainerName;
use capsid_runtime::network::{NetworkMode, NetworkOptions};
use capsid_runtime::spec::RunOptions;
use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::{terminal, timings, units};

/// Flags and words of `run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArguments {
    /// Remove the container and its writable layer when it ends
    #[arg(long)]
    pub(super) rm: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set an environment variable: NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = units::environment_setting)]
    pub(super) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Working folder in the container
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    pub(super) group_add: Vec<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(super) entrypoint: Option<String>,
    /// Host name
    #[arg(short, long)]
    pub(super) hostname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = units::parse_host)]
    pub(super) add_host: Vec<(String, String)>,
    /// The container's network: bridge (its own, with a way to the host's networks) or none
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = units::parse_network, default_value = "bridge")]
    pub(super) network: NetworkMode,
    /// A name server instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub(super) dns: Vec<IpAddr>,
    /// A domain to search for names, or . for none
    #[arg(long, value_name = "DOMAIN", value_parser = units::parse_resolver_word)]
    pub(super) dns_search: Vec<String>,
    /// An option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = units::parse_resolver_word)]
    pub(super) dns_option: Vec<String>,
    /// Name of the container
    #[arg(long)]
    pub(super) name: Option<ContainerName>,
    /// Memory limit in bytes, or with a suffix: k, m, g
    #[arg(short, long, value_name = "BYTES", value_parser = units::parse_bytes)]
    pub(super) memory: Option<u64>,
    /// Number of processors
    #[arg(long, value_name = "NUMBER")]
    pub(super) cpus: Option<f64>,
    /// Limit on processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(super) pids_limit: Option<i64>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(super) read_only: bool,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = units::parse_tmpfs)]
    pub(super) tmpfs: Vec<TmpfsMount>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes)]
    pub(super) shm_size: Option<u64>,
    /// Put an init in front of the process that forwards signals and reaps
    #[arg(long)]
    pub(super) init: bool,
    /// Set a resource limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = units::parse_ulimit)]
    pub(super) ulimit: Vec<Rlimit>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(super) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(super) cap_drop: Vec<String>,
    /// Give the process every capability and open the guest kernel's interfaces
    #[arg(long)]
    pub(super) privileged: bool,
    /// Security option: no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub(super) security_opt: Vec<String>,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) sig_proxy: bool,
    /// What runs the machine [default: kvm where it works, emulated elsewhere]
    #[arg(long, env = "CAPSID_ENGINE", value_name = "ENGINE")]
    pub(super) engine: Option<EngineName>,
    /// Print when each step of the start happened, on stderr
    #[arg(long)]
    pub(super) timings: bool,
    /// Format of --timings
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(super) format: timings::Format,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(super) help: Option<bool>,
    /// The image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(super) image_and_command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineName {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's emulation.
    Emulated,
}

/// What the flags ask of a container; `command` is what follows the image.
pub(super) fn options(arguments: &RunArguments, command: &[String]) -> Result<RunOptions, Failure> {
    let mut env = Vec::new();
    for path in &arguments.env_file {
        let content = std::fs::read_to_string(path)
            .map_err(|error| Failure::of_run_text(format!("failed to read {}: {error}", path.display())))?;
        let settings = units::environment_file(&content);
        env.extend(settings.map_err(|reason| Failure::of_run_text(format!("{}: {reason}", path.display())))?);
    }
    env.extend(arguments.env.iter().cloned());
    let mut no_new_privileges = false;
    for option in &arguments.security_opt {
        match option.as_str() {
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                no_new_privileges = true
            }
            "no-new-privileges:false" | "no-new-privileges=false" => no_new_privileges = false,
            // There is no filter to lift: the machine is the boundary.
            "seccomp=unconfined" | "apparmor=unconfined" | "label=disable" | "label:disable" => {}
            other => return Err(Failure::of_run_text(format!("invalid --security-opt: \"{other}\""))),
        }
    }
    Ok(RunOptions {
        args: command.to_vec(),
        entrypoint: arguments.entrypoint.clone().map(|program| vec![program]),
        env,
        workdir: arguments.workdir.clone(),
        user: arguments.user.clone(),
        groups: arguments.group_add.clone(),
        hostname: arguments.hostname.clone(),
        extra_hosts: arguments.add_host.clone(),
        terminal: arguments.tty.then(terminal::size),
        stdin: arguments.interactive,
        memory_bytes: arguments.memory,
        cpus: arguments.cpus,
        pids: arguments.pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit != 0),
        read_only: arguments.read_only,
        tmpfs: arguments.tmpfs.clone(),
        folders: Vec::new(),
        sysctls: Default::default(),
        shm_bytes: arguments.shm_size,
        init: arguments.init,
        rlimits: arguments.ulimit.clone(),
        cap_add: arguments.cap_add.clone(),
        cap_drop: arguments.cap_drop.clone(),
        privileged: arguments.privileged,
        no_new_privileges,
        network: NetworkOptions {
            mode: arguments.network,
            dns: arguments.dns.clone(),
            dns_search: arguments.dns_search.clone(),
            dns_options: arguments.dns_option.clone(),
        },
        ..RunOptions::default()
    })
}
