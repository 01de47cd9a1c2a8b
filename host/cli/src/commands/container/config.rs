//! From the flags of `run` and `create` to what the API calls a container's configuration.

use std::collections::HashMap;
use std::fs;

use capsid_api::extensions::ENGINE_ANNOTATION;
use capsid_api::models::{ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig};

use super::flags::{ContainerFlags, EngineName, LifeFlags};
use crate::session::terminal;
use crate::words::{environment, mounts, names, ports};

/// The configuration that the flags ask for, attached as `run` without `--detach` is.
pub(crate) fn body(flags: &ContainerFlags) -> Result<ContainerCreateBody, String> {
    let (process, surroundings, life) = (&flags.process, &flags.surroundings, &flags.life);
    let (image, command) = flags.image_and_command.split_first().ok_or("no image")?;
    names::check_image(image)?;
    let attaches = |stream: &str| process.attach.iter().any(|attached| attached == stream);
    let attach_stdin = process.interactive || attaches("stdin");
    let everything = process.attach.is_empty();
    let (_, new_volumes) = mounts::volumes(&surroundings.volume);
    Ok(ContainerCreateBody {
        image: Some(image.clone()),
        cmd: list(command),
        entrypoint: process.entrypoint.clone().map(|program| vec![program]),
        env: list(&environment::all(&process.env_file, &process.env)?),
        working_dir: process.workdir.clone(),
        user: process.user.clone(),
        hostname: surroundings.hostname.clone(),
        domainname: surroundings.domainname.clone(),
        attach_stdin: Some(attach_stdin),
        attach_stdout: Some(everything || attaches("stdout")),
        attach_stderr: Some(everything || attaches("stderr")),
        tty: Some(process.tty),
        open_stdin: Some(process.interactive),
        // The end of this client's input is the end of the process's.
        stdin_once: Some(process.interactive && attach_stdin),
        labels: Some(environment::labels(&life.label_file, &life.label)?),
        exposed_ports: list(&exposed(flags)?),
        volumes: list(&new_volumes),
        stop_signal: life.stop_signal.clone(),
        stop_timeout: life.stop_timeout,
        healthcheck: health(life)?,
        host_config: Some(host_config(flags)?),
        ..ContainerCreateBody::default()
    })
}

/// Nothing for an empty list: the image's stands then.
fn list(texts: &[String]) -> Option<Vec<String>> {
    (!texts.is_empty()).then(|| texts.to_vec())
}

fn map(settings: &[String]) -> Option<HashMap<String, String>> {
    (!settings.is_empty()).then(|| environment::map(settings))
}

fn exposed(flags: &ContainerFlags) -> Result<Vec<String>, String> {
    let surroundings = &flags.surroundings;
    let mut all: Vec<String> =
        surroundings.expose.iter().map(|port| ports::exposed(port)).collect::<Result<_, _>>()?;
    all.extend(ports::bindings(&surroundings.publish)?.into_keys());
    all.sort();
    all.dedup();
    Ok(all)
}

fn host_config(flags: &ContainerFlags) -> Result<HostConfig, String> {
    let (process, resources, surroundings, life) =
        (&flags.process, &flags.resources, &flags.surroundings, &flags.life);
    let (binds, _) = mounts::volumes(&surroundings.volume);
    let bindings = ports::bindings(&surroundings.publish)?;
    let size = terminal::size().filter(|_| process.tty);
    if life.rm
        && life
            .restart
            .as_ref()
            .is_some_and(|policy| policy.name != Some(capsid_api::models::RestartPolicyNameEnum::NO))
    {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    Ok(HostConfig {
        memory: resources.memory,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        memory_swappiness: resources.memory_swappiness.filter(|value| *value != -1),
        nano_cpus: resources.cpus,
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        blkio_weight: resources.blkio_weight,
        pids_limit: resources.pids_limit,
        oom_kill_disable: resources.oom_kill_disable.then_some(true),
        oom_score_adj: resources.oom_score_adj,
        shm_size: resources.shm_size,
        ulimits: (!process.ulimit.is_empty()).then(|| process.ulimit.clone()),
        init: process.init.then_some(true),
        privileged: Some(process.privileged),
        cap_add: list(&process.cap_add),
        cap_drop: list(&process.cap_drop),
        group_add: list(&process.group_add),
        security_opt: list(&security(&process.security_opt)?),
        readonly_rootfs: Some(surroundings.read_only),
        tmpfs: (!surroundings.tmpfs.is_empty()).then(|| mounts::tmpfs(&surroundings.tmpfs)),
        mounts: (!surroundings.mount.is_empty()).then(|| surroundings.mount.clone()),
        binds: list(&binds),
        volumes_from: list(&surroundings.volumes_from),
        devices: devices(&surroundings.device),
        sysctls: map(&surroundings.sysctl),
        extra_hosts: list(&surroundings.add_host),
        dns: list(&surroundings.dns),
        dns_options: list(&surroundings.dns_option),
        dns_search: list(&surroundings.dns_search),
        network_mode: surroundings.network.clone(),
        port_bindings: (!bindings.is_empty()).then_some(bindings),
        publish_all_ports: Some(surroundings.publish_all),
        links: list(&surroundings.link),
        ipc_mode: surroundings.ipc.clone(),
        pid_mode: surroundings.pid.clone(),
        uts_mode: surroundings.uts.clone(),
        userns_mode: surroundings.userns.clone(),
        cgroup_parent: surroundings.cgroup_parent.clone(),
        container_id_file: life.cidfile.as_ref().map(|path| path.display().to_string()),
        console_size: size.map(|size| vec![size.rows.into(), size.columns.into()]),
        auto_remove: Some(life.rm),
        restart_policy: life.restart.clone(),
        log_config: log_config(life),
        annotations: annotations(life),
        runtime: life.runtime.clone(),
        ..HostConfig::default()
    })
}

fn log_config(life: &LifeFlags) -> Option<HostConfigLogConfig> {
    let is_set = life.log_driver.is_some() || !life.log_opt.is_empty();
    is_set.then(|| HostConfigLogConfig {
        typ: life.log_driver.clone(),
        config: Some(environment::map(&life.log_opt)),
    })
}

fn annotations(life: &LifeFlags) -> Option<HashMap<String, String>> {
    let mut annotations = environment::map(&life.annotation);
    let engine = life.engine.map(|engine| match engine {
        EngineName::Kvm => "kvm",
        EngineName::Emulated => "emulated",
    });
    annotations.extend(engine.map(|engine| (ENGINE_ANNOTATION.to_owned(), engine.to_owned())));
    (!annotations.is_empty()).then_some(annotations)
}

/// A profile is a file of the client's: its content goes to the daemon.
fn security(options: &[String]) -> Result<Vec<String>, String> {
    let option = |option: &String| {
        let path = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        match path {
            Some(path) if !matches!(path, "unconfined" | "builtin") => {
                let content = fs::read_to_string(path).map_err(|error| {
                    format!("opening seccomp profile ({path}) failed: {}", names::reason(&error))
                })?;
                Ok(format!("seccomp={content}"))
            }
            _ => Ok(option.clone()),
        }
    };
    options.iter().map(option).collect()
}

fn devices(texts: &[String]) -> Option<Vec<DeviceMapping>> {
    let device = |text: &String| {
        let mut parts = text.splitn(3, ':');
        let host = parts.next().unwrap_or_default().to_owned();
        let (inside, permissions) = match (parts.next(), parts.next()) {
            (Some(mode), None) if mode.bytes().all(|byte| b"rwm".contains(&byte)) => {
                (host.clone(), mode.to_owned())
            }
            (inside, permissions) => {
                (inside.map_or_else(|| host.clone(), str::to_owned), permissions.unwrap_or("rwm").to_owned())
            }
        };
        DeviceMapping {
            path_on_host: Some(host),
            path_in_container: Some(inside),
            cgroup_permissions: Some(permissions),
        }
    };
    (!texts.is_empty()).then(|| texts.iter().map(device).collect())
}

fn health(life: &LifeFlags) -> Result<Option<HealthConfig>, String> {
    let settings = HealthConfig {
        test: life.health_cmd.clone().map(|command| vec!["CMD-SHELL".to_owned(), command]),
        interval: life.health_interval,
        timeout: life.health_timeout,
        retries: life.health_retries,
        start_period: life.health_start_period,
        start_interval: life.health_start_interval,
    };
    let is_set = settings != HealthConfig::default();
    if !life.no_healthcheck {
        return Ok(is_set.then_some(settings));
    }
    if is_set {
        return Err("--no-healthcheck conflicts with --health-* options".to_owned());
    }
    Ok(Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: ContainerFlags,
    }

    fn of(words: &[&str]) -> Result<ContainerCreateBody, String> {
        let line = Line::try_parse_from(["run"].iter().chain(words)).map_err(|error| error.to_string())?;
        body(&line.flags)
    }

    #[test]
    fn what_is_not_asked_for_is_left_to_image_and_daemon() {
        let body = of(&["busybox"]).unwrap();
        assert_eq!((body.cmd, body.entrypoint, body.env, body.healthcheck), (None, None, None, None));
        assert_eq!(
            (body.attach_stdin, body.attach_stdout, body.stdin_once),
            (Some(false), Some(true), Some(false))
        );
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.tmpfs, host.annotations, host.log_config), (None, None, None, None));
    }

    #[test]
    fn words_after_the_image_are_the_command() {
        let body = of(&["-it", "-e", "A=b", "busybox", "sh", "-c", "-x", "--rm"]).unwrap();
        assert_eq!(body.cmd.unwrap(), ["sh", "-c", "-x", "--rm"]);
        assert_eq!((body.open_stdin, body.tty, body.stdin_once), (Some(true), Some(true), Some(true)));
        assert_eq!(body.host_config.unwrap().auto_remove, Some(false));
    }

    #[test]
    fn flags_are_where_the_api_has_them() {
        let flags = [
            "-m",
            "256m",
            "--cpus",
            "1.5",
            "--pids-limit",
            "-1",
            "--engine",
            "kvm",
            "--annotation",
            "a=b",
            "--health-cmd",
            "true",
            "--health-interval",
            "1m",
            "--tmpfs",
            "/run:size=1m",
            "-a",
            "stdout",
            "--restart",
            "on-failure:2",
            "--log-opt",
            "max-size=1m",
            "--memory-swap",
            "-1",
            "busybox",
        ];
        let body = of(&flags).unwrap();
        assert_eq!((body.attach_stdout, body.attach_stderr), (Some(true), Some(false)));
        let health = body.healthcheck.unwrap();
        assert_eq!(health.test.unwrap(), ["CMD-SHELL", "true"]);
        assert_eq!(health.interval, Some(60_000_000_000));
        let host = body.host_config.unwrap();
        assert_eq!(
            (host.memory, host.nano_cpus, host.pids_limit),
            (Some(256 << 20), Some(1_500_000_000), Some(-1))
        );
        assert_eq!((host.memory_swap, &host.tmpfs.unwrap()["/run"]), (Some(-1), &"size=1m".to_owned()));
        let annotations = host.annotations.unwrap();
        assert_eq!((annotations["a"].as_str(), annotations[ENGINE_ANNOTATION].as_str()), ("b", "kvm"));
        assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], "1m");
        assert_eq!(host.restart_policy.unwrap().maximum_retry_count, Some(2));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(
            of(&["--rm", "--restart", "always", "busybox"]).unwrap_err().starts_with("conflicting options")
        );
        assert!(of(&["--no-healthcheck", "--health-cmd", "x", "busybox"]).is_err());
        assert!(of(&["-a", "stdnull", "busybox"]).is_err());
        assert!(of(&[]).is_err());
    }
}
