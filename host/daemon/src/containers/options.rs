//! From the API's wishes to the runtime's: everything that a client may ask for is granted or refused by name.

use std::collections::BTreeMap;

use capsid_api::extensions::ENGINE_ANNOTATION;
use capsid_api::models::{
    ContainerCreateBody, HealthConfig, HostConfig, MountType, ResourcesUlimits, RestartPolicyNameEnum,
};
use capsid_protocol::{Rlimit, RlimitKind, TerminalSize, TmpfsMount};
use capsid_runtime::engine::EngineChoice;
use capsid_runtime::lifecycle::RestartPolicy;
use capsid_runtime::logs::{LogConfig, LogConfigError};
use capsid_runtime::network::{
    HOST_GATEWAY, HOST_GATEWAY_REFUSED, NetworkMode, NetworkOptions, is_resolver_word,
};
use capsid_runtime::record::{HealthOptions, LifeOptions, LogOptions, StopSignal};
use capsid_runtime::spec::RunOptions;
use oci_spec::image::ImageConfiguration;

use super::signals::signal_number;
use crate::error::{ApiError, Result};

/// The size of a terminal that nobody tells: what a VT100 had.
const DEFAULT_TERMINAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// What is asked of machine, root and process, and of the container's life.
pub(super) fn of(
    body: &ContainerCreateBody,
    image: &ImageConfiguration,
    warnings: &mut Vec<String>,
) -> Result<(RunOptions, LifeOptions)> {
    let host = body.host_config.clone().unwrap_or_default();
    refuse_what_is_not_there(&host)?;
    check_swap(&host)?;
    warn(&host, warnings);
    let image_settings = image.config().as_ref();
    let mut labels: BTreeMap<String, String> = image_settings
        .and_then(|settings| settings.labels().clone())
        .map(|labels| labels.into_iter().collect())
        .unwrap_or_default();
    labels.extend(body.labels.clone().unwrap_or_default());
    let options = RunOptions {
        args: body.cmd.clone().unwrap_or_default(),
        entrypoint: body.entrypoint.clone(),
        env: body.env.clone().unwrap_or_default(),
        workdir: body.working_dir.clone().filter(|path| !path.is_empty()),
        user: body.user.clone().filter(|user| !user.is_empty()),
        groups: host.group_add.clone().unwrap_or_default(),
        hostname: body.hostname.clone(),
        extra_hosts: extra_hosts(&host)?,
        terminal: body.tty.unwrap_or(false).then(|| terminal_size(&host)),
        stdin: body.open_stdin.unwrap_or(false),
        memory_bytes: positive(host.memory, "memory")?,
        cpus: cpus(&host)?,
        pids: host.pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0),
        read_only: host.readonly_rootfs.unwrap_or(false),
        tmpfs: tmpfs(&host)?,
        folders: folders(body, warnings),
        sysctls: host.sysctls.clone().unwrap_or_default().into_iter().collect(),
        shm_bytes: positive(host.shm_size, "shm-size")?,
        init: host.init.unwrap_or(false),
        rlimits: rlimits(host.ulimits.as_deref().unwrap_or_default())?,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        privileged: host.privileged.unwrap_or(false),
        no_new_privileges: no_new_privileges(&host)?,
        labels,
        network: network(body, &host)?,
    };
    let life = life(body, &host, image)?;
    Ok((options, life))
}

fn refuse_what_is_not_there(host: &HostConfig) -> Result<()> {
    let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if any(&host.binds) || any(&host.volumes_from) {
        return Err(ApiError::unsupported("volumes are"));
    }
    let tmpfs = |kind: Option<MountType>| kind == Some(MountType::TMPFS);
    if host.mounts.iter().flatten().any(|mount| !tmpfs(mount.typ)) {
        return Err(ApiError::unsupported("mounts other than tmpfs are"));
    }
    if host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
        || host.publish_all_ports.unwrap_or(false)
    {
        return Err(ApiError::unsupported("published ports are"));
    }
    if any(&host.links) {
        return Err(ApiError::unsupported("links are"));
    }
    if host.devices.as_ref().is_some_and(|devices| !devices.is_empty())
        || host.device_requests.as_ref().is_some_and(|requests| !requests.is_empty())
    {
        return Err(ApiError::unsupported("host devices are"));
    }
    let mode = host.network_mode.as_deref().unwrap_or_default();
    match mode {
        "" | "default" | "bridge" | "none" => {}
        "host" => return Err(ApiError::unsupported("the host's network in a virtual machine is")),
        _ if mode.starts_with("container:") => {
            return Err(ApiError::unsupported("sharing another container's network is"));
        }
        _ => return Err(ApiError::unsupported("named networks are")),
    }
    for (name, mode) in [("pid", &host.pid_mode), ("uts", &host.uts_mode), ("userns", &host.userns_mode)] {
        if mode.as_deref().is_some_and(|mode| !matches!(mode, "" | "private")) {
            return Err(ApiError::unsupported(&format!("sharing a {name} namespace is")));
        }
    }
    match host.ipc_mode.as_deref().unwrap_or_default() {
        "" | "none" | "private" | "shareable" => Ok(()),
        _ => Err(ApiError::unsupported("sharing an ipc namespace is")),
    }
}

/// What has no meaning for a machine of its own is said, and does no harm.
fn warn(host: &HostConfig, warnings: &mut Vec<String>) {
    let mut ignored = Vec::new();
    let set = |number: Option<i64>| number.is_some_and(|number| number != 0);
    let named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    for (is_set, what) in [
        (named(&host.cpuset_cpus) || named(&host.cpuset_mems), "cpuset"),
        (set(host.memory_reservation), "memory reservation"),
        (set(host.cpu_realtime_period) || set(host.cpu_realtime_runtime), "real-time scheduling"),
        (named(&host.cgroup_parent), "cgroup parent"),
        (throttles(host), "limiting the rate of disks"),
        (host.oom_kill_disable == Some(true), "disabling the OOM killer"),
    ] {
        if is_set {
            ignored.push(what);
        }
    }
    warnings.extend(
        ignored.iter().map(|what| format!("{what} has no effect: the container is a machine of its own")),
    );
}

/// Volumes without a name are folders of the writable layer as yet: what is in them goes with the container, which is
/// what becomes of most.
fn folders(body: &ContainerCreateBody, warnings: &mut Vec<String>) -> Vec<String> {
    let folders: Vec<String> = body.volumes.clone().unwrap_or_default();
    warnings.extend(
        folders
            .iter()
            .map(|path| format!("{path} is no volume of its own, but part of the container's files")),
    );
    folders
}

/// Whether a share or a rate of disks is asked for; the devices that are named are the host's.
fn throttles(host: &HostConfig) -> bool {
    let rates = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    host.blkio_weight.is_some_and(|weight| weight != 0)
        || rates.iter().any(|rates| rates.as_ref().is_some_and(|rates| !rates.is_empty()))
}

fn positive(number: Option<i64>, name: &str) -> Result<Option<u64>> {
    match number {
        None | Some(0) => Ok(None),
        Some(number) => u64::try_from(number)
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("invalid {name}: {number}"))),
    }
}

/// Docker's two ways to say how much processor time there is.
/// Memory and swap together are no less than memory; there is no swap, so nothing follows from it.
pub(super) fn check_swap(host: &HostConfig) -> Result<()> {
    let (memory, both) = (host.memory.unwrap_or(0), host.memory_swap.unwrap_or(0));
    if memory > 0 && both > 0 && both < memory {
        let message = "Minimum memoryswap limit should be larger than memory limit, see usage";
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

pub(super) fn cpus(host: &HostConfig) -> Result<Option<f64>> {
    let nano = host.nano_cpus.unwrap_or(0);
    let (quota, period) = (host.cpu_quota.unwrap_or(0), host.cpu_period.unwrap_or(0));
    if nano != 0 && (quota != 0 || period != 0) {
        let message = "Conflicting options: Nano CPUs and CPU Quota cannot both be set";
        return Err(ApiError::invalid(message));
    }
    if nano < 0 {
        return Err(ApiError::invalid(format!("invalid CPUs: {nano}")));
    }
    if nano > 0 {
        // Far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        return Ok(Some(nano as f64 / 1e9));
    }
    if quota <= 0 {
        return Ok(None);
    }
    let period = if period == 0 { 100_000 } else { period };
    if !(1_000..=1_000_000).contains(&period) {
        return Err(ApiError::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if quota < 1_000 {
        return Err(ApiError::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    #[allow(clippy::cast_precision_loss)]
    Ok(Some(quota as f64 / period as f64))
}

fn terminal_size(host: &HostConfig) -> TerminalSize {
    match host.console_size.as_deref() {
        Some([rows, columns]) if *rows > 0 && *columns > 0 => TerminalSize {
            rows: u16::try_from(*rows).unwrap_or(u16::MAX),
            columns: u16::try_from(*columns).unwrap_or(u16::MAX),
        },
        _ => DEFAULT_TERMINAL,
    }
}

fn extra_hosts(host: &HostConfig) -> Result<Vec<(String, String)>> {
    let list = host.extra_hosts.as_deref().unwrap_or_default();
    let split = |entry: &String| {
        let parts =
            entry.split_once(['=', ':']).filter(|(name, address)| !name.is_empty() && !address.is_empty());
        let (name, address) =
            parts.ok_or_else(|| ApiError::invalid(format!("bad format for add-host: {entry:?}")))?;
        let address = address.trim_matches(['[', ']']);
        if address == HOST_GATEWAY {
            return Err(ApiError::invalid(HOST_GATEWAY_REFUSED));
        }
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(ApiError::invalid(format!("invalid IP address in add-host: {address:?}")));
        }
        if name.chars().any(|character| character.is_whitespace() || character.is_control()) {
            return Err(ApiError::invalid(format!("bad format for add-host: {entry:?}")));
        }
        Ok((address.to_owned(), name.to_owned()))
    };
    list.iter().map(split).collect()
}

/// The mode was checked; see [`refuse_what_is_not_there`].
fn network(body: &ContainerCreateBody, host: &HostConfig) -> Result<NetworkOptions> {
    let none = host.network_mode.as_deref() == Some("none") || body.network_disabled == Some(true);
    let endpoints = body.networking_config.as_ref().and_then(|config| config.endpoints_config.as_ref());
    let known = |name: &str| matches!(name, "default" | "bridge" | "none");
    if endpoints.is_some_and(|endpoints| endpoints.keys().any(|name| !known(name))) {
        return Err(ApiError::unsupported("named networks are"));
    }
    let address = |text: &String| {
        text.trim()
            .parse()
            .map_err(|_| ApiError::invalid(format!("bad parameter: {text:?} is not an IP address")))
    };
    let words = |list: &Option<Vec<String>>| match list.iter().flatten().find(|word| !is_resolver_word(word))
    {
        Some(bad) => Err(ApiError::invalid(format!("bad parameter: {bad:?} is not a word of a resolver's"))),
        None => Ok(list.clone().unwrap_or_default()),
    };
    Ok(NetworkOptions {
        mode: if none { NetworkMode::None } else { NetworkMode::Bridge },
        dns: host.dns.iter().flatten().map(address).collect::<Result<_>>()?,
        dns_search: words(&host.dns_search)?,
        dns_options: words(&host.dns_options)?,
    })
}

fn tmpfs(host: &HostConfig) -> Result<Vec<TmpfsMount>> {
    let mut mounts: Vec<TmpfsMount> = host
        .tmpfs
        .iter()
        .flatten()
        .map(|(path, options)| TmpfsMount { path: path.clone(), options: tmpfs_options(options) })
        .collect();
    for mount in host.mounts.iter().flatten() {
        let path = mount.target.clone().unwrap_or_default();
        let mut options = Vec::new();
        if let Some(tmpfs) = &mount.tmpfs_options {
            options.extend(tmpfs.size_bytes.filter(|size| *size > 0).map(|size| format!("size={size}")));
            options.extend(tmpfs.mode.map(|mode| format!("mode={mode:o}")));
        }
        if mount.read_only.unwrap_or(false) {
            options.push("ro".to_owned());
        }
        mounts.push(TmpfsMount { path, options: tmpfs_options(&options.join(",")) });
    }
    mounts.sort_by(|one, other| one.path.cmp(&other.path));
    if let Some(pair) = mounts.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(ApiError::invalid(format!("Duplicate mount point: {}", pair[0].path)));
    }
    Ok(mounts)
}

/// Docker's defaults, which what is asked for may lift (moby, `daemon.withMounts`).
fn tmpfs_options(asked: &str) -> String {
    let separator = if asked.is_empty() { "" } else { "," };
    format!("noexec,nosuid,nodev{separator}{asked}")
}

fn rlimits(ulimits: &[ResourcesUlimits]) -> Result<Vec<Rlimit>> {
    let limit = |number: Option<i64>| number.map_or(0, |number| u64::try_from(number).unwrap_or(u64::MAX));
    let one = |ulimit: &ResourcesUlimits| {
        let name = ulimit.name.clone().unwrap_or_default();
        let kind = RlimitKind::from_name(&name)
            .ok_or_else(|| ApiError::invalid(format!("invalid ulimit type: {name}")))?;
        Ok(Rlimit { kind, soft: limit(ulimit.soft), hard: limit(ulimit.hard) })
    };
    ulimits.iter().map(one).collect()
}

fn no_new_privileges(host: &HostConfig) -> Result<bool> {
    let mut set = false;
    for option in host.security_opt.iter().flatten() {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => set = true,
            ("no-new-privileges", "false") => set = false,
            // A machine of its own is a wall that these only imitate: whatever they ask for, there is more.
            ("seccomp" | "apparmor" | "label" | "systempaths" | "writable-cgroups", _) => {}
            _ => return Err(ApiError::invalid(format!("invalid --security-opt: {option:?}"))),
        }
    }
    Ok(set)
}

fn life(body: &ContainerCreateBody, host: &HostConfig, image: &ImageConfiguration) -> Result<LifeOptions> {
    let image_signal = image.config().as_ref().and_then(|settings| settings.stop_signal().clone());
    let signal = body.stop_signal.clone().filter(|signal| !signal.is_empty()).or(image_signal);
    let stop_signal =
        signal.map(|signal| signal_number(&signal)).transpose()?.map_or_else(StopSignal::default, StopSignal);
    let restart = restart_policy(host)?;
    let auto_remove = host.auto_remove.unwrap_or(false);
    if auto_remove && restart != RestartPolicy::No {
        let message = "can't create 'AutoRemove' container with restart policy";
        return Err(ApiError::invalid(message));
    }
    Ok(LifeOptions {
        engine: engine(host)?,
        stop_signal,
        stop_timeout_s: body.stop_timeout,
        restart,
        auto_remove,
        stdin_once: body.stdin_once.unwrap_or(false),
        log: log(host)?,
        health: health(body.healthcheck.as_ref())?,
    })
}

fn engine(host: &HostConfig) -> Result<EngineChoice> {
    let asked = host.annotations.as_ref().and_then(|annotations| annotations.get(ENGINE_ANNOTATION));
    match asked.map(String::as_str) {
        None | Some("") => Ok(EngineChoice::Automatic),
        Some("kvm") => Ok(EngineChoice::Kvm),
        Some("emulated") => Ok(EngineChoice::Emulated),
        Some(other) => Err(ApiError::invalid(format!("there is no engine {other:?}"))),
    }
}

pub(super) fn restart_policy(host: &HostConfig) -> Result<RestartPolicy> {
    let Some(policy) = &host.restart_policy else { return Ok(RestartPolicy::No) };
    let retries = policy.maximum_retry_count.unwrap_or(0);
    let name = policy.name.unwrap_or(RestartPolicyNameEnum::EMPTY);
    if retries != 0 && name != RestartPolicyNameEnum::ON_FAILURE {
        let message = "invalid restart policy: maximum retry count can only be used with 'on-failure'";
        return Err(ApiError::invalid(message));
    }
    let retries = u32::try_from(retries)
        .map_err(|_| ApiError::invalid("invalid restart policy: maximum retry count cannot be negative"))?;
    Ok(match name {
        RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => RestartPolicy::No,
        RestartPolicyNameEnum::ALWAYS => RestartPolicy::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartPolicy::UnlessStopped,
        RestartPolicyNameEnum::ON_FAILURE => RestartPolicy::OnFailure { retries },
    })
}

/// Where Docker's daemon would find a fault only at the start, its words for that are around it.
fn log_refused(error: &LogConfigError) -> String {
    match error {
        LogConfigError::UnknownDriver(_) | LogConfigError::UnknownOption { .. } => error.to_string(),
        _ => format!("failed to create task for container: failed to initialize logging driver: {error}"),
    }
}

fn log(host: &HostConfig) -> Result<LogOptions> {
    let config = host.log_config.clone().unwrap_or_default();
    let options: BTreeMap<String, String> = config.config.unwrap_or_default().into_iter().collect();
    let driver = config.typ.unwrap_or_default();
    LogConfig::parse(&driver, &options).map_err(|error| ApiError::invalid(log_refused(&error)))?;
    Ok(LogOptions { driver, options })
}

fn health(config: Option<&HealthConfig>) -> Result<Option<HealthOptions>> {
    let Some(config) = config else { return Ok(None) };
    let test = config.test.clone().unwrap_or_default();
    let command = match test.split_first() {
        None => return Ok(None),
        Some((first, _)) if first == "NONE" => return Ok(None),
        Some((first, rest)) if first == "CMD" => rest.to_vec(),
        Some((first, rest)) if first == "CMD-SHELL" => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")]
        }
        Some((other, _)) => {
            return Err(ApiError::invalid(format!("Unknown healthcheck type '{other}' (expected 'CMD')")));
        }
    };
    if command.is_empty() {
        return Ok(None);
    }
    let time = |nanoseconds: Option<i64>, name: &str| match nanoseconds {
        None | Some(0) => Ok(None),
        Some(nanoseconds @ 1_000_000..) => Ok(u64::try_from(nanoseconds).ok()),
        Some(_) => {
            Err(ApiError::invalid(format!("{name} in Healthcheck cannot be less than one millisecond")))
        }
    };
    let retries = config.retries.unwrap_or(0);
    Ok(Some(HealthOptions {
        command,
        interval_ns: time(config.interval, "Interval")?,
        timeout_ns: time(config.timeout, "Timeout")?,
        start_period_ns: time(config.start_period, "StartPeriod")?,
        start_interval_ns: time(config.start_interval, "StartInterval")?,
        retries: Some(
            u32::try_from(retries)
                .map_err(|_| ApiError::invalid("Retries in Healthcheck cannot be negative"))?,
        ),
    }))
}

/// A terminal of the default size, for processes that are told theirs later.
pub(crate) fn process_options() -> TerminalSize {
    DEFAULT_TERMINAL
}
