//! `GET /containers/{id}/stats`: what a container uses, once a second or once.

use std::time::Duration;

use bytes::Bytes;
use capsid_protocol::Statistics;
use capsid_runtime::containers::Container;
use capsid_runtime::driver::View;
use capsid_runtime::lifecycle::Phase;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::http::{self, Reply};
use crate::routes::Call;

/// As often as Docker's daemon looks.
const PERIOD: Duration = Duration::from_secs(1);

pub(crate) async fn stats(call: &Call, id: &str) -> Result<Reply> {
    let container = call.server.containers.find(id)?;
    if !call.query.flag_or("stream", true) {
        let mut before = Sample::default();
        if !call.query.flag("one-shot") {
            before = sample(&container).await;
            if before.statistics.is_some() {
                tokio::time::sleep(PERIOD).await;
            }
        }
        return http::ok(&document(&container.view(), &sample(&container).await, &before));
    }
    let (sender, reply) = http::streamed("application/json");
    tokio::spawn(async move {
        let mut before = Sample::default();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            let view = container.view();
            if view.removed {
                return;
            }
            let now = sample(&container).await;
            let mut text = serde_json::to_vec(&document(&view, &now, &before)).unwrap_or_default();
            text.push(b'\n');
            if sender.send(Bytes::from(text)).await.is_err() {
                return;
            }
            before = now;
        }
    });
    Ok(reply)
}

/// What was seen at one moment; nothing of a container that does not run, or whose processors are held.
#[derive(Debug, Default)]
struct Sample {
    at: Option<Timestamp>,
    statistics: Option<Statistics>,
}

async fn sample(container: &Container) -> Sample {
    let view = container.view();
    let live = view.live.clone().filter(|_| view.phase() == Phase::Running);
    let statistics = match live {
        Some(live) => live.sandbox.or_ended(live.sandbox.agent().statistics()).await.ok(),
        None => None,
    };
    Sample { at: Some(Timestamp::now()), statistics }
}

/// The API's document (`ContainerStatsResponse`), with the fields of control groups of version 2.
fn document(view: &View, now: &Sample, before: &Sample) -> Value {
    let mut document = json!({
        "read": super::inspect::moment(now.at.filter(|_| now.statistics.is_some())),
        "preread": super::inspect::moment(before.at.filter(|_| before.statistics.is_some())),
        "name": format!("/{}", view.record.name),
        "id": view.record.id,
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": pids(now),
        "blkio_stats": block(now),
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": memory(now),
    });
    if let Some(networks) = networks(now) {
        document["networks"] = networks;
    }
    document
}

fn pids(sample: &Sample) -> Value {
    let Some(statistics) = &sample.statistics else { return json!({}) };
    json!({ "current": statistics.pids, "limit": statistics.pids_limit.unwrap_or(u64::MAX) })
}

/// Times in nanoseconds. The machine's own time stands where Docker has the host's: what the client makes of it is the
/// part of the machine's processors that the container has.
fn cpu(sample: &Sample) -> Value {
    let Some(statistics) = &sample.statistics else {
        return json!({
            "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
            "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
        });
    };
    let nanoseconds = |us: u64| us.saturating_mul(1000);
    let cpu = &statistics.cpu;
    json!({
        "cpu_usage": {
            "total_usage": nanoseconds(cpu.total_us),
            "usage_in_kernelmode": nanoseconds(cpu.system_us),
            "usage_in_usermode": nanoseconds(cpu.user_us),
        },
        "system_cpu_usage": nanoseconds(statistics.at_us).saturating_mul(u64::from(statistics.processors)),
        "online_cpus": statistics.processors,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": nanoseconds(cpu.throttled_us),
        },
    })
}

fn memory(sample: &Sample) -> Value {
    let Some(statistics) = &sample.statistics else { return json!({}) };
    let memory = &statistics.memory;
    json!({
        "usage": memory.current,
        "max_usage": memory.peak,
        "failcnt": memory.limit_reached,
        "limit": memory.limit,
        "stats": memory.details,
    })
}

fn block(sample: &Sample) -> Value {
    let devices = sample.statistics.iter().flat_map(|statistics| &statistics.block);
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    for device in devices {
        let entry = |operation: &str, value: u64| json!({ "major": device.major, "minor": device.minor, "op": operation, "value": value });
        bytes.extend([entry("read", device.read_bytes), entry("write", device.written_bytes)]);
        requests.extend([entry("read", device.reads), entry("write", device.writes)]);
    }
    let list = |entries: Vec<Value>| if entries.is_empty() { Value::Null } else { Value::Array(entries) };
    json!({
        "io_service_bytes_recursive": list(bytes), "io_serviced_recursive": list(requests),
        "io_queue_recursive": null, "io_service_time_recursive": null, "io_wait_time_recursive": null,
        "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
    })
}

fn networks(sample: &Sample) -> Option<Value> {
    let interfaces = &sample.statistics.as_ref()?.interfaces;
    let networks: Map<String, Value> = interfaces
        .iter()
        .map(|interface| {
            let (received, sent) = (&interface.received, &interface.sent);
            let traffic = json!({
                "rx_bytes": received.bytes, "rx_packets": received.packets,
                "rx_errors": received.errors, "rx_dropped": received.dropped,
                "tx_bytes": sent.bytes, "tx_packets": sent.packets,
                "tx_errors": sent.errors, "tx_dropped": sent.dropped,
            });
            (interface.name.clone(), traffic)
        })
        .collect();
    (!networks.is_empty()).then_some(Value::Object(networks))
}
