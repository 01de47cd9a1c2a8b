//! `POST /containers/{id}/update`.

use capsid_api::models::{ContainerUpdateResponse, HostConfig, RestartPolicyNameEnum};
use serde_json::Value;

use super::options;
use crate::error::{ApiError, Result};
use crate::http::{self, Reply};
use crate::routes::Call;

pub(crate) async fn update(call: Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    let mut document: Value = http::read_json(call.body).await?;
    if let Some(object) = document.as_object_mut() {
        // Clients send every field; what is zero or null is not to change.
        object.retain(|_, value| !is_zero(value));
    }
    let wishes: HostConfig = serde_json::from_value(document.clone())
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let policy = match &wishes.restart_policy {
        Some(policy) if policy.name.is_some_and(|name| name != RestartPolicyNameEnum::EMPTY) => {
            Some(options::restart_policy(&wishes)?)
        }
        _ => None,
    };
    if policy.is_some_and(|policy| policy != capsid_runtime::lifecycle::RestartPolicy::No)
        && container.view().record.life.auto_remove
    {
        let message = "Restart policy cannot be updated because AutoRemove is enabled for the container";
        return Err(ApiError::invalid(message));
    }
    let cpus = options::cpus(&wishes)?;
    let memory = wishes
        .memory
        .map(|bytes| u64::try_from(bytes).map_err(|_| ApiError::invalid("invalid memory")))
        .transpose()?;
    let pids = wishes.pids_limit;
    container
        .update(move |record| {
            if let Some(policy) = policy {
                record.life.restart = policy;
            }
            if memory.is_some() {
                record.options.memory_bytes = memory;
            }
            if cpus.is_some() {
                record.options.cpus = cpus;
            }
            if let Some(pids) = pids {
                record.options.pids = u64::try_from(pids).ok().filter(|pids| *pids > 0);
            }
            if let (Some(host), Some(changes)) =
                (record.documents["HostConfig"].as_object_mut(), document.as_object())
            {
                host.extend(changes.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        })
        .await?;
    // The guest is not told: what it has was given when its machine started.
    let limits = memory.is_some() || cpus.is_some() || pids.is_some();
    let waits = limits && container.view().live.is_some();
    let warning = "the new limits take effect when the container is started again".to_owned();
    http::ok(&ContainerUpdateResponse { warnings: waits.then(|| vec![warning]) })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(is_zero),
    }
}
