//! The flags of `run` and `create`.

use std::path::PathBuf;

use capsid_api::models::{Mount, ResourcesUlimits, RestartPolicy};
use clap::{Args, ValueEnum};

use crate::present::times;
use crate::words::{environment, limits, mounts};

/// What runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// Hardware virtualisation
    Kvm,
    /// QEMU's emulation
    Emulated,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Even if it is there
    Always,
    /// If it is not there
    Missing,
    /// Not at all
    Never,
}

/// Flags and words of `run` and `create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ContainerFlags {
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
    #[command(flatten)]
    pub(crate) resources: ResourceFlags,
    #[command(flatten)]
    pub(crate) surroundings: SurroundingFlags,
    #[command(flatten)]
    pub(crate) life: LifeFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// The image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) image_and_command: Vec<String>,
}

/// What the process is, and what it is connected to.
#[derive(Debug, Args)]
pub(crate) struct ProcessFlags {
    /// Attach to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", value_parser = stream)]
    pub(crate) attach: Vec<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable: NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = environment::setting)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working folder in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Put an init in front of the process that forwards signals and reaps
    #[arg(long)]
    pub(crate) init: bool,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// Give the process every capability and open the guest kernel's interfaces
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Security option: no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Set a resource limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = limits::ulimit)]
    pub(crate) ulimit: Vec<ResourcesUlimits>,
}

fn stream(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    match lower.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(lower),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// Memory, processors, and other limits.
#[derive(Debug, Args)]
pub(crate) struct ResourceFlags {
    /// Memory limit in bytes, or with a suffix: k, m, g
    #[arg(short, long, value_name = "BYTES", value_parser = limits::bytes)]
    pub(crate) memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", value_parser = limits::bytes)]
    pub(crate) memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = limits::bytes_or_unlimited, allow_negative_numbers = true)]
    pub(crate) memory_swap: Option<i64>,
    /// How readily memory is swapped, from 0 to 100
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) memory_swappiness: Option<i64>,
    /// Number of processors
    #[arg(long, value_name = "NUMBER", value_parser = limits::nano_cpus)]
    pub(crate) cpus: Option<i64>,
    /// Weight among the containers that want processors
    #[arg(short, long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<i64>,
    /// Microseconds in which --cpu-quota is counted
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<i64>,
    /// Microseconds of processor time in each --cpu-period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Processors to run on (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Weight of block input and output, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Limit on processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Do not kill processes when memory runs out
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// How readily processes are killed when memory runs out, from -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) oom_score_adj: Option<i64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = limits::bytes)]
    pub(crate) shm_size: Option<i64>,
}

/// Files, devices and networks.
#[derive(Debug, Args)]
pub(crate) struct SurroundingFlags {
    /// Host name
    #[arg(short, long)]
    pub(crate) hostname: Option<String>,
    /// Domain name
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// Set DNS servers
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Set DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Network to connect to
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Option<String>,
    /// Publish a port on the host
    #[arg(short, long, value_name = "[[ADDRESS:]HOST-PORT:]PORT")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// Link to another container
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) link: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// Mount something: type=…,target=…
    #[arg(long, value_name = "MOUNT", value_parser = mounts::mount)]
    pub(crate) mount: Vec<Mount>,
    /// Mount a folder of the host, or a volume
    #[arg(short, long, value_name = "SOURCE:PATH[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// Mount the volumes of other containers
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Add a device of the host
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Set a kernel parameter: NAME=value
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// IPC namespace
    #[arg(long, value_name = "MODE")]
    pub(crate) ipc: Option<String>,
    /// PID namespace
    #[arg(long, value_name = "MODE")]
    pub(crate) pid: Option<String>,
    /// UTS namespace
    #[arg(long, value_name = "MODE")]
    pub(crate) uts: Option<String>,
    /// User namespace
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    /// Parent of the container's control group
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
}

/// The container's life, and what is known of it.
#[derive(Debug, Args)]
pub(crate) struct LifeFlags {
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Remove the container and its writable layer when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// What follows the container's end: no, always, unless-stopped, on-failure[:COUNT]
    #[arg(long, value_name = "POLICY", value_parser = limits::restart)]
    pub(crate) restart: Option<RestartPolicy>,
    /// Signal that stops the container
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) stop_timeout: Option<i64>,
    /// Write the container's identifier to a file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Set a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Set an annotation: NAME=value
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// How output is kept: json-file, none
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// Option of that: NAME=value
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Command that checks the container's health
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks (ms|s|m|h)
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) health_interval: Option<i64>,
    /// Time that a check may take
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) health_timeout: Option<i64>,
    /// Failures in a row that make the container unhealthy
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_retries: Option<i64>,
    /// Time at the start in which failures do not count
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) health_start_period: Option<i64>,
    /// Time between checks in that period
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    pub(crate) health_start_interval: Option<i64>,
    /// Check nothing, whatever the image says
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Runtime of the container
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) runtime: Option<String>,
    /// Platform of the image
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// When the image is pulled
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: Pull,
    /// Print nothing about pulling
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// What runs the machine [default: kvm where it works, emulated elsewhere]
    #[arg(long, env = "CAPSID_ENGINE", value_enum, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineName>,
}
