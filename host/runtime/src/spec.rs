//! From what the image says and what the user asks for to what the agent is told: the rules of `docker run`, as pure
//! functions.

use std::collections::BTreeMap;

use capsid_protocol::{
    Capability, Identity, Limits, PrepareRoot, ProcessId, ProcessSpec, Rlimit, TerminalSize, TmpfsMount,
    WritableLayer,
};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::network::NetworkOptions;

/// `PATH` of a process whose image sets none (moby, `oci/defaults.go`).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Size of /dev/shm when nothing is asked for (moby, `config.DefaultShmSize`).
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;
/// Memory of a machine whose container has no limit, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 512;
/// What kernel and agent need beside a container's own memory, in MiB, so that a limited container can use all of
/// its limit: the kernel's text and data, the agent, and the kernel's own allocations.
const MACHINE_OVERHEAD_MIB: u64 = 40;
/// The kernel describes each 4 KiB page with 64 bytes.
const PAGE_DESCRIPTIONS: u64 = 64;
/// The least limit that Docker takes (moby, `linuxMinMemory`).
pub const MIN_MEMORY_BYTES: u64 = 6 << 20;
/// The period that processor time is counted against (`cpu.max`), in microseconds.
const CPU_PERIOD_US: f64 = 100_000.0;
/// Volumes of an image that are looked at.
const MAX_IMAGE_VOLUMES: usize = 64;
/// Docker's limits on a host name: those of the kernel.
const MAX_HOSTNAME_BYTES: usize = 64;

/// What a user asks of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Arguments after the image: replace the image's command.
    pub args: Vec<String>,
    /// Replaces the image's entrypoint, and drops its command.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over those of the image.
    pub env: Vec<String>,
    /// Working folder.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// Further groups.
    pub groups: Vec<String>,
    /// Host name; the container's short id when absent.
    pub hostname: Option<String>,
    /// Further lines of /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// A terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// Whether stdin is connected.
    pub stdin: bool,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// Processors, in parts.
    pub cpus: Option<f64>,
    /// Limit on processes.
    pub pids: Option<u64>,
    /// Read-only root.
    pub read_only: bool,
    /// Further tmpfs mounts.
    pub tmpfs: Vec<TmpfsMount>,
    /// Folders that the user wants to be there, beside those of the image's volumes.
    #[serde(default)]
    pub folders: Vec<String>,
    /// Parameters of the machine's kernel.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Size of /dev/shm.
    pub shm_bytes: Option<u64>,
    /// A small init in front of the process.
    pub init: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Capabilities to add; `ALL` is all.
    pub cap_add: Vec<String>,
    /// Capabilities to drop; `ALL` is all.
    pub cap_drop: Vec<String>,
    /// All capabilities and open kernel interfaces.
    pub privileged: bool,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Labels, the image's among them.
    pub labels: BTreeMap<String, String>,
    /// Its network.
    #[serde(default)]
    pub network: NetworkOptions,
}

/// What a user asks for and cannot have.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SpecError {
    /// Neither the image nor the user names a program.
    #[error("no command specified")]
    NoCommand,
    /// A relative working folder.
    #[error("the working directory '{0}' is invalid, it needs to be an absolute path")]
    Workdir(String),
    /// A host name that the kernel or a resolver would not take.
    #[error("invalid hostname format: {0}")]
    Hostname(String),
    /// Not a capability.
    #[error("invalid {list}: unknown capability: \"{name}\"")]
    Capability {
        /// `CapAdd` or `CapDrop`.
        list: &'static str,
        /// As the kernel would call it.
        name: String,
    },
    /// Under Docker's least.
    #[error("Minimum memory limit allowed is 6MB")]
    MemoryTooSmall,
    /// More than a machine can have.
    #[error("a container has at most {} MiB of memory", capsid_vmm::config::MAX_MEMORY_MIB)]
    MemoryTooLarge,
    /// Not a number of processors that a machine can have.
    #[error(
        "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
        capsid_vmm::config::MAX_VCPUS
    )]
    Cpus,
    /// A soft limit over its hard limit.
    #[error("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    Rlimit {
        /// The soft limit.
        soft: u64,
        /// The hard limit.
        hard: u64,
    },
    /// A relative path of a mount, or the root itself.
    #[error("invalid mount path: '{0}' mount path must be absolute and not '/'")]
    TmpfsPath(String),
}

/// A container's machine, root and process.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Processors of the machine.
    pub vcpus: u8,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// What the agent prepares.
    pub root: PrepareRoot,
    /// The container's own process.
    pub process: ProcessSpec,
    /// The network; what the agent is told of it is settled when the machine starts.
    pub network: NetworkOptions,
}

impl ContainerSpec {
    /// Merges an image's configuration with a user's wishes. `short_id` is the host name when none is asked for,
    /// `layers` the number of the image's layer files.
    ///
    /// # Errors
    ///
    /// The first wish that cannot be had.
    pub fn merge(
        image: &ImageConfiguration,
        options: &RunOptions,
        short_id: &str,
        layers: u32,
    ) -> Result<ContainerSpec, SpecError> {
        let hostname = hostname(options, short_id)?;
        let (memory_mib, memory_limit) = memory(options.memory_bytes)?;
        let (vcpus, cpu_quota_us) = processors(options.cpus)?;
        let limits = Limits { memory_bytes: memory_limit, cpu_quota_us, pids: options.pids };
        let process = process(image, options, &hostname)?;
        check_tmpfs(&options.tmpfs)?;
        if let Some(path) = options.folders.iter().find(|path| !is_plain(path)) {
            return Err(SpecError::TmpfsPath(path.clone()));
        }
        let root = PrepareRoot {
            layers,
            writable: WritableLayer::Disk,
            read_only: options.read_only,
            tmpfs: options.tmpfs.clone(),
            shm_bytes: options.shm_bytes.unwrap_or(DEFAULT_SHM_BYTES),
            hostname,
            extra_hosts: options.extra_hosts.clone(),
            resolv_conf: None,
            network: None,
            limits,
            privileged: options.privileged,
            realtime_ns: None,
            folders: folders(image, options),
            sysctls: options.sysctls.clone().into_iter().collect(),
        };
        Ok(ContainerSpec { vcpus, memory_mib, root, process, network: options.network.clone() })
    }
}

/// Where volumes would be. An image's that make no sense are left out: nobody who uses the image can mend it.
fn folders(image: &ImageConfiguration, options: &RunOptions) -> Vec<String> {
    let of_image = image.config().as_ref().and_then(|config| config.volumes().clone()).unwrap_or_default();
    let of_image = of_image.into_iter().filter(|path| is_plain(path)).take(MAX_IMAGE_VOLUMES);
    let mut folders: Vec<String> = options.folders.iter().cloned().chain(of_image).collect();
    folders.sort();
    folders.dedup();
    folders
}

fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && path.len() > 1
        && path.split('/').all(|part| !matches!(part, "." | "..") && !part.contains('\0'))
}

fn process(
    image: &ImageConfiguration,
    options: &RunOptions,
    hostname: &str,
) -> Result<ProcessSpec, SpecError> {
    let config = image.config().as_ref();
    let image_user = config.and_then(|config| config.user().clone()).unwrap_or_default();
    let image_cwd = config.and_then(|config| config.working_dir().clone()).unwrap_or_default();
    if let Some(limit) = options.rlimits.iter().find(|limit| limit.soft > limit.hard) {
        return Err(SpecError::Rlimit { soft: limit.soft, hard: limit.hard });
    }
    Ok(ProcessSpec {
        process: ProcessId::INIT,
        args: command(image, options)?,
        env: environment(image, options, hostname),
        cwd: workdir(options.workdir.as_deref(), &image_cwd)?,
        identity: Identity {
            user: options.user.clone().unwrap_or(image_user),
            additional_groups: options.groups.clone(),
        },
        terminal: options.terminal,
        stdin: options.stdin,
        rlimits: options.rlimits.clone(),
        capabilities: capabilities(options)?,
        no_new_privileges: options.no_new_privileges,
        init: options.init,
    })
}

fn command(image: &ImageConfiguration, options: &RunOptions) -> Result<Vec<String>, SpecError> {
    let config = image.config().as_ref();
    let image_entrypoint = config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let image_command = config.and_then(|config| config.cmd().clone()).unwrap_or_default();
    // An empty --entrypoint resets the image's; any --entrypoint drops the image's command, which was made for
    // the entrypoint that it replaces.
    let (mut args, default_command) = match options.entrypoint.as_deref() {
        Some([]) => (Vec::new(), image_command),
        Some([empty]) if empty.is_empty() => (Vec::new(), Vec::new()),
        Some(entrypoint) => (entrypoint.to_vec(), Vec::new()),
        None => (image_entrypoint, image_command),
    };
    args.extend(if options.args.is_empty() { default_command } else { options.args.clone() });
    if args.is_empty() { Err(SpecError::NoCommand) } else { Ok(args) }
}

/// Later settings of a name replace earlier ones, in the earlier one's place, as Docker has it.
fn environment(image: &ImageConfiguration, options: &RunOptions, hostname: &str) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if options.terminal.is_some() {
        env.push("TERM=xterm".to_owned());
    }
    let from_image = image.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    for setting in from_image.into_iter().chain(options.env.iter().cloned()) {
        let name = setting.split('=').next().unwrap_or_default();
        match env.iter().position(|known| known.split('=').next() == Some(name)) {
            // `-e NAME` without a value takes a name of the image away.
            Some(index) if !setting.contains('=') => drop(env.remove(index)),
            Some(index) => env[index] = setting,
            None if setting.contains('=') => env.push(setting),
            None => {}
        }
    }
    env
}

fn workdir(asked: Option<&str>, image: &str) -> Result<String, SpecError> {
    match asked.filter(|path| !path.is_empty()) {
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        Some(path) => Err(SpecError::Workdir(path.to_owned())),
        None if image.is_empty() => Ok("/".to_owned()),
        None if image.starts_with('/') => Ok(image.to_owned()),
        None => Ok(format!("/{image}")),
    }
}

fn hostname(options: &RunOptions, short_id: &str) -> Result<String, SpecError> {
    let Some(hostname) = options.hostname.as_deref().filter(|hostname| !hostname.is_empty()) else {
        return Ok(short_id.to_owned());
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = hostname.len() <= MAX_HOSTNAME_BYTES
        && hostname.bytes().all(inner)
        && !hostname.starts_with(['-', '.'])
        && !hostname.ends_with('-');
    if valid { Ok(hostname.to_owned()) } else { Err(SpecError::Hostname(hostname.to_owned())) }
}

/// The machine's size in MiB, and the container's limit within it.
fn memory(limit: Option<u64>) -> Result<(u32, Option<u64>), SpecError> {
    let Some(bytes) = limit.filter(|bytes| *bytes != 0) else {
        return Ok((DEFAULT_MEMORY_MIB, None));
    };
    if bytes < MIN_MEMORY_BYTES {
        return Err(SpecError::MemoryTooSmall);
    }
    let mib = bytes.div_ceil(1 << 20);
    let machine = mib.saturating_add(mib / PAGE_DESCRIPTIONS).saturating_add(MACHINE_OVERHEAD_MIB);
    let machine = machine.max(u64::from(capsid_vmm::config::MIN_MEMORY_MIB));
    match u32::try_from(machine) {
        Ok(machine) if machine <= capsid_vmm::config::MAX_MEMORY_MIB => Ok((machine, Some(bytes))),
        _ => Err(SpecError::MemoryTooLarge),
    }
}

/// The machine's processors, and the container's share of their time when it is not all of it.
fn processors(cpus: Option<f64>) -> Result<(u8, Option<u64>), SpecError> {
    let Some(cpus) = cpus.filter(|cpus| *cpus != 0.0) else {
        return Ok((1, None));
    };
    if !(0.01..=f64::from(capsid_vmm::config::MAX_VCPUS)).contains(&cpus) {
        return Err(SpecError::Cpus);
    }
    // Both were just bounded: at most 32 processors and 3,200,000 µs.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (vcpus, quota) = (cpus.ceil() as u8, (cpus * CPU_PERIOD_US).round() as u64);
    let whole = (f64::from(vcpus) - cpus).abs() < f64::EPSILON;
    Ok((vcpus, (!whole).then_some(quota)))
}

fn capabilities(options: &RunOptions) -> Result<Vec<Capability>, SpecError> {
    if options.privileged {
        return Ok(Capability::ALL.to_vec());
    }
    let added = named("CapAdd", &options.cap_add)?;
    let dropped = named("CapDrop", &options.cap_drop)?;
    let all = |names: &[String]| names.iter().any(|name| is_all(name));
    // As Docker: an explicit --cap-add outlives --cap-drop ALL, an explicit --cap-drop outlives --cap-add ALL.
    let base: &[Capability] = match (all(&options.cap_add), all(&options.cap_drop)) {
        (true, _) => Capability::ALL,
        (false, true) => &[],
        (false, false) => Capability::DOCKER_DEFAULT,
    };
    let kept = base.iter().copied().filter(|capability| !dropped.contains(capability));
    let mut capabilities: Vec<_> = kept.chain(added).collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    Ok(capabilities)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn named(list: &'static str, names: &[String]) -> Result<Vec<Capability>, SpecError> {
    let parse = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        Capability::from_name(&full).ok_or(SpecError::Capability { list, name: full })
    };
    names.iter().filter(|name| !is_all(name)).map(parse).collect()
}

fn check_tmpfs(mounts: &[TmpfsMount]) -> Result<(), SpecError> {
    let bad =
        mounts.iter().find(|mount| !mount.path.starts_with('/') || mount.path.trim_matches('/').is_empty());
    bad.map_or(Ok(()), |mount| Err(SpecError::TmpfsPath(mount.path.clone())))
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder, RootFsBuilder};

    use super::*;

    fn image(entrypoint: &[&str], command: &[&str]) -> ImageConfiguration {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config = ConfigBuilder::default()
            .entrypoint(owned(entrypoint))
            .cmd(owned(command))
            .env(owned(&["PATH=/image", "LANG=C"]))
            .working_dir("/srv".to_owned())
            .user("daemon".to_owned())
            .build()
            .unwrap();
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(Vec::new()).build().unwrap();
        ImageConfigurationBuilder::default()
            .architecture("amd64")
            .os("linux")
            .rootfs(rootfs)
            .config(config)
            .build()
            .unwrap()
    }

    fn merged(options: &RunOptions) -> Result<ContainerSpec, SpecError> {
        ContainerSpec::merge(&image(&["/entry"], &["default"]), options, "0123456789ab", 1)
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_is_merged_as_docker_merges_it() {
        let case = |args: &str, entrypoint: Option<&str>| {
            let options = RunOptions {
                args: words(args),
                entrypoint: entrypoint.map(|word| vec![word.to_owned()]),
                ..Default::default()
            };
            merged(&options).map(|spec| spec.process.args.join(" "))
        };
        assert_eq!(case("", None).unwrap(), "/entry default");
        assert_eq!(case("a b", None).unwrap(), "/entry a b");
        assert_eq!(case("", Some("sh")).unwrap(), "sh");
        assert_eq!(case("-c x", Some("sh")).unwrap(), "sh -c x");
        assert_eq!(case("a", Some("")).unwrap(), "a");
        assert_eq!(case("", Some("")), Err(SpecError::NoCommand));
    }

    #[test]
    fn the_environment_keeps_its_order_and_the_last_setting_wins() {
        let options = RunOptions { env: words("A=1 LANG=de A=2 PATH"), ..Default::default() };
        assert_eq!(merged(&options).unwrap().process.env, words("HOSTNAME=0123456789ab LANG=de A=2"));
    }

    #[test]
    fn folder_user_and_host_name_come_from_the_image_unless_asked_for() {
        let plain = merged(&RunOptions::default()).unwrap();
        assert_eq!((plain.process.cwd.as_str(), plain.process.identity.user.as_str()), ("/srv", "daemon"));
        assert_eq!(plain.root.hostname, "0123456789ab");
        let options = RunOptions {
            workdir: Some("/tmp".into()),
            user: Some("1:2".into()),
            hostname: Some("box".into()),
            ..Default::default()
        };
        let asked = merged(&options).unwrap();
        assert_eq!((asked.process.cwd.as_str(), asked.process.identity.user.as_str()), ("/tmp", "1:2"));
        assert_eq!(asked.root.hostname, "box");
        let relative = RunOptions { workdir: Some("tmp".into()), ..Default::default() };
        assert_eq!(merged(&relative), Err(SpecError::Workdir("tmp".into())));
        for bad in ["-x", "a b", "x\n127.0.0.1 evil", &"a".repeat(65)] {
            let options = RunOptions { hostname: Some(bad.into()), ..Default::default() };
            assert_eq!(merged(&options), Err(SpecError::Hostname(bad.into())));
        }
    }

    #[test]
    fn a_limited_container_gets_a_machine_that_is_larger_than_its_limit() {
        let sized = |bytes| merged(&RunOptions { memory_bytes: Some(bytes), ..Default::default() });
        let spec = sized(256 << 20).unwrap();
        assert_eq!((spec.memory_mib, spec.root.limits.memory_bytes), (300, Some(256 << 20)));
        assert_eq!(sized(0).unwrap().memory_mib, DEFAULT_MEMORY_MIB);
        assert_eq!(sized(1), Err(SpecError::MemoryTooSmall));
        assert_eq!(sized(u64::MAX), Err(SpecError::MemoryTooLarge));
    }

    #[test]
    fn parts_of_processors_become_whole_ones_with_a_quota() {
        let sized = |cpus| merged(&RunOptions { cpus: Some(cpus), ..Default::default() });
        let of = |cpus| sized(cpus).map(|spec| (spec.vcpus, spec.root.limits.cpu_quota_us));
        assert_eq!(of(2.0), Ok((2, None)));
        assert_eq!(of(0.5), Ok((1, Some(50_000))));
        assert_eq!(of(1.5), Ok((2, Some(150_000))));
        for bad in [-1.0, 0.001, 33.0, f64::NAN, f64::INFINITY] {
            assert_eq!(of(bad), Err(SpecError::Cpus), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let of = |add: &str, drop: &str| {
            let options = RunOptions { cap_add: words(add), cap_drop: words(drop), ..Default::default() };
            merged(&options).map(|spec| spec.process.capabilities)
        };
        let mut default = Capability::DOCKER_DEFAULT.to_vec();
        default.sort_unstable();
        assert_eq!(of("", "").unwrap(), default);
        assert_eq!(of("net_admin", "ALL").unwrap(), [Capability::NetAdmin]);
        assert_eq!(of("ALL", "").unwrap(), Capability::ALL);
        assert!(!of("ALL", "CAP_SYS_ADMIN").unwrap().contains(&Capability::SysAdmin));
        assert!(!of("", "chown").unwrap().contains(&Capability::Chown));
        assert_eq!(of("wings", ""), Err(SpecError::Capability { list: "CapAdd", name: "CAP_WINGS".into() }));
    }
}
