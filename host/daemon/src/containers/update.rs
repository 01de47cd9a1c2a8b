//! `POST /containers/{id}/update`.

use std::sync::Arc;

use capsid_api::models::{ContainerUpdateResponse, HostConfig, RestartPolicyNameEnum};
use capsid_protocol::{Limit, LimitChanges};
use capsid_runtime::containers::Container;
use capsid_runtime::lifecycle::Phase;
use capsid_runtime::live::CPU_PERIOD_US;
use capsid_runtime::spec::{MIN_MEMORY_BYTES, SpecError};
use serde_json::Value;

use super::{documents, options};
use crate::error::{ApiError, Result};
use crate::http::{self, Reply};
use crate::names;
use crate::routes::Call;

pub(crate) async fn update(call: Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    let mut document: Value = http::read_json(&call.body).await?;
    if let Some(object) = document.as_object_mut() {
        names::settle::<HostConfig>(object);
        // Clients send every field; what is zero or null is not to change.
        object.retain(|_, value| !is_zero(value));
    }
    documents::check_restart_policy(&serde_json::json!({ "HostConfig": &document }))?;
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
    if memory.is_some_and(|bytes| bytes < MIN_MEMORY_BYTES) {
        return Err(ApiError::invalid(SpecError::MemoryTooSmall.to_string()));
    }
    options::check_swap(&wishes)?;
    let changes = LimitChanges {
        memory_bytes: memory.map(Limit::Most),
        cpu_quota_us: cpus.map(quota),
        pids: pids
            .map(|pids| u64::try_from(pids).ok().filter(|pids| *pids > 0).map_or(Limit::None, Limit::Most)),
    };
    let is_whole = change_now(&container, changes).await?;
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
                (Arc::make_mut(&mut record.documents)["HostConfig"].as_object_mut(), document.as_object())
            {
                host.extend(changes.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        })
        .await?;
    let warning = "the machine cannot be changed so far while it runs: the new limits take effect when the container is \
                   started again"
        .to_owned();
    http::ok(&ContainerUpdateResponse { warnings: (!is_whole).then(|| vec![warning]) })
}

/// Processor time for a number of processors.
fn quota(cpus: f64) -> Limit {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be a few processors"
    )]
    Limit::Most((cpus * CPU_PERIOD_US as f64).round() as u64)
}

/// Tells a container that runs. Whether that is all that is to be done now.
async fn change_now(container: &Container, changes: LimitChanges) -> Result<bool> {
    let view = container.view();
    let Some(live) = view.live.clone().filter(|_| changes != LimitChanges::default()) else {
        return Ok(true);
    };
    // While its processors are held, nobody in it hears anything.
    if view.phase() != Phase::Running {
        return Ok(false);
    }
    Ok(live.set_limits(changes).await?)
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
