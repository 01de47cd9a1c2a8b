//! `capsid update`.

use capsid_api::client::{ClientError, segment};
use capsid_api::models::{ContainerUpdateBody, RestartPolicy};
use clap::Args;
use serde::Deserialize;

use crate::commands::Call;
use crate::commands::each::each;
use crate::failure::Failure;
use crate::words::limits;

/// Flags and words of `update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    /// Memory limit in bytes, or with a suffix: k, m, g
    #[arg(short, long, value_name = "BYTES", value_parser = limits::bytes)]
    memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", value_parser = limits::bytes)]
    memory_reservation: Option<i64>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", value_parser = limits::bytes_or_unlimited, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Number of processors
    #[arg(long, value_name = "NUMBER", value_parser = limits::nano_cpus)]
    cpus: Option<i64>,
    /// Weight among the containers that want processors
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Microseconds in which --cpu-quota is counted
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Microseconds of processor time in each --cpu-period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Processors to run on (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Weight of block input and output, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Limit on processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// What follows the container's end: no, always, unless-stopped, on-failure[:COUNT]
    #[arg(long, value_name = "POLICY", value_parser = limits::restart)]
    restart: Option<RestartPolicy>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Updated {
    warnings: Option<Vec<String>>,
}

pub(crate) async fn update(arguments: &UpdateArguments, call: &Call) -> Result<u8, Failure> {
    let body = ContainerUpdateBody {
        memory: arguments.memory,
        memory_reservation: arguments.memory_reservation,
        memory_swap: arguments.memory_swap,
        nano_cpus: arguments.cpus,
        cpu_shares: arguments.cpu_shares,
        cpu_period: arguments.cpu_period,
        cpu_quota: arguments.cpu_quota,
        cpuset_cpus: arguments.cpuset_cpus.clone(),
        cpuset_mems: arguments.cpuset_mems.clone(),
        blkio_weight: arguments.blkio_weight,
        pids_limit: arguments.pids_limit,
        restart_policy: arguments.restart.clone(),
        ..ContainerUpdateBody::default()
    };
    if body == ContainerUpdateBody::default() {
        return Err(Failure::text("you must provide one or more flags when using this command"));
    }
    let client = call.connect().await?;
    each(&client, &arguments.containers, |client, name| {
        let body = body.clone();
        async move {
            let request = client.post(format!("/containers/{}/update", segment(&name))).json(&body);
            let updated: Updated = request.send().await?.json().await?;
            for warning in updated.warnings.unwrap_or_default() {
                eprintln!("{warning}");
            }
            Ok::<_, ClientError>(name)
        }
    })
    .await
}
