//! The documents of a container: `Config` and `HostConfig` as inspection shows them, which is as the client gave them,
//! with the image's settings and Docker's defaults below.

use capsid_api::models::{ContainerCreateBody, HostConfig};
use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::names;

/// Accepts what Docker accepts beside the documented form: a command as one text, and names in any case.
pub(super) fn normalise(mut document: Value) -> Value {
    if let Some(object) = document.as_object_mut() {
        names::settle::<ContainerCreateBody>(object);
        if let Some(host) = object.get_mut("HostConfig").and_then(Value::as_object_mut) {
            names::settle::<HostConfig>(host);
        }
        for name in ["Cmd", "Entrypoint"] {
            if let Some(Value::String(text)) = object.get(name) {
                let list = json!([text]);
                object.insert(name.to_owned(), list);
            }
        }
        // Docker's client sends nulls for what it does not set.
        object.retain(|_, value| !value.is_null());
        if let Some(host) = object.get_mut("HostConfig").and_then(Value::as_object_mut) {
            host.retain(|_, value| !value.is_null());
        }
    }
    document
}

/// A policy that there is none of is told so by name, and not as a document that makes no sense.
pub(super) fn check_restart_policy(document: &Value) -> Result<()> {
    let name = document["HostConfig"]["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    if matches!(name, "" | "no" | "always" | "on-failure" | "unless-stopped") {
        return Ok(());
    }
    let known = "use one of 'no', 'always', 'on-failure', or 'unless-stopped'";
    Err(ApiError::invalid(format!("invalid restart policy: unknown policy '{name}'; {known}")))
}

/// What is kept of a container's making.
pub(super) fn of_container(document: &Value, image: &ImageConfiguration) -> Value {
    let mut config = default_config();
    let mut host = default_host_config();
    merge(&mut config, &image_config(image));
    if let Some(object) = document.as_object() {
        let own: Map<String, Value> = object
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "HostConfig" | "NetworkingConfig"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        merge_config(&mut config, &own);
        if let Some(asked) = object.get("HostConfig") {
            merge(&mut host, asked);
        }
    }
    finish_host_config(&mut host);
    let networking = document.get("NetworkingConfig").cloned().unwrap_or_default();
    json!({ "Config": config, "HostConfig": host, "NetworkingConfig": networking })
}

fn merge(target: &mut Value, over: &Value) {
    if let (Some(target), Some(over)) = (target.as_object_mut(), over.as_object()) {
        for (name, value) in over {
            target.insert(name.clone(), value.clone());
        }
    }
}

/// The client's over the image's: labels and variables by name, an entrypoint of the client's drops the image's
/// command, and what is empty does not count.
fn merge_config(config: &mut Value, own: &Map<String, Value>) {
    let Some(config) = config.as_object_mut() else { return };
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => true,
    };
    if own.get("Entrypoint").is_some_and(is_set) && !own.get("Cmd").is_some_and(is_set) {
        config.insert("Cmd".to_owned(), Value::Null);
    }
    for (name, value) in own.iter().filter(|(_, value)| is_set(value)) {
        let merged = match (name.as_str(), config.get(name)) {
            ("Labels" | "ExposedPorts" | "Volumes", Some(Value::Object(below))) => {
                let mut object = below.clone();
                object.extend(value.as_object().cloned().unwrap_or_default());
                Value::Object(object)
            }
            ("Env", Some(Value::Array(below))) => merge_env(below, value),
            _ => value.clone(),
        };
        config.insert(name.clone(), merged);
    }
}

/// The client's variables first, as Docker lists them, then those of the image that the client does not set.
fn merge_env(image: &[Value], own: &Value) -> Value {
    let mut list = own.as_array().cloned().unwrap_or_default();
    let name = |setting: &Value| setting.as_str().unwrap_or_default().split('=').next().map(str::to_owned);
    let names: Vec<_> = list.iter().map(name).collect();
    list.extend(image.iter().filter(|setting| !names.contains(&name(setting))).cloned());
    Value::Array(list)
}

fn default_config() -> Value {
    json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null,
        "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
    })
}

/// The image's settings, under the names that the API has for them.
fn image_config(image: &ImageConfiguration) -> Value {
    let mut settings = match image.config().as_ref().map(serde_json::to_value) {
        Some(Ok(Value::Object(settings))) => settings,
        _ => Map::new(),
    };
    settings.retain(|_, value| !value.is_null());
    Value::Object(settings)
}

fn default_host_config() -> Value {
    json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "json-file", "Config": {} },
        "NetworkMode": "default", "PortBindings": {}, "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null,
        "CapDrop": null, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [],
        "ExtraHosts": null, "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0,
        "PidMode": "", "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null,
        "UTSMode": "", "UsernsMode": "", "ShmSize": capsid_runtime::spec::DEFAULT_SHM_BYTES, "Runtime": "capsid",
        "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
        "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [], "DeviceCgroupRules": null,
        "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null,
        "OomKillDisable": null, "PidsLimit": null, "Ulimits": [], "CpuCount": 0, "CpuPercent": 0,
        "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
        "MaskedPaths": ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
            "/sys/firmware", "/sys/devices/virtual/powercap"],
        "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    })
}

/// Empty words that mean a default are shown as that.
fn finish_host_config(host: &mut Value) {
    let Some(host) = host.as_object_mut() else { return };
    let is_empty = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(str::is_empty);
    if is_empty(host.get("NetworkMode")) {
        host.insert("NetworkMode".to_owned(), json!("default"));
    }
    if is_empty(host.get("IpcMode")) {
        host.insert("IpcMode".to_owned(), json!("private"));
    }
    if is_empty(host.get("Runtime")) {
        host.insert("Runtime".to_owned(), json!("capsid"));
    }
    if host.get("ShmSize").and_then(Value::as_u64) == Some(0) {
        host.insert("ShmSize".to_owned(), json!(capsid_runtime::spec::DEFAULT_SHM_BYTES));
    }
    if is_empty(host.get("LogConfig").and_then(|log| log.get("Type"))) {
        let options =
            host.get("LogConfig").and_then(|log| log.get("Config")).filter(|options| options.is_object());
        let options = options.cloned().unwrap_or_else(|| json!({}));
        host.insert("LogConfig".to_owned(), json!({ "Type": "json-file", "Config": options }));
    }
    if is_empty(host.get("RestartPolicy").and_then(|policy| policy.get("Name"))) {
        host.insert("RestartPolicy".to_owned(), json!({ "Name": "no", "MaximumRetryCount": 0 }));
    }
    let memory = host.get("Memory").and_then(Value::as_i64).unwrap_or(0);
    if memory > 0 && host.get("MemorySwap").and_then(Value::as_i64) == Some(0) {
        host.insert("MemorySwap".to_owned(), json!(memory * 2));
    }
}
