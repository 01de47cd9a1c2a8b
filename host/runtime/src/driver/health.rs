//! Health: a probe now and then, and what its result means. The meaning is a pure function.

use std::sync::Arc;
use std::time::Duration;

use capsid_protocol::{ProcessId, ProcessSpec};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{Driver, Happened, Message};
use crate::live::Live;
use crate::record::{HealthOptions, HealthRecord, HealthResult, HealthStatus};

/// Docker's defaults (moby, `daemon/health.go`).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;
/// Results that are kept (moby, `maxLogEntries`).
const KEPT_RESULTS: usize = 5;
/// Bytes of a probe's output that are kept (moby, `maxOutputLen`).
const KEPT_OUTPUT_BYTES: usize = 4096;
/// Processes of probes are numbered in the upper half, those of execs from 1 up: the two never meet.
const PROBE_PROCESSES: u32 = 1 << 31;

/// What a probe's result makes of a container's health.
#[must_use]
pub(crate) fn judge(
    options: &HealthOptions,
    before: HealthStatus,
    streak: u32,
    succeeded: bool,
    in_start_period: bool,
) -> (HealthStatus, u32) {
    if succeeded {
        return (HealthStatus::Healthy, 0);
    }
    if in_start_period && before == HealthStatus::Starting {
        return (HealthStatus::Starting, streak);
    }
    let streak = streak.saturating_add(1);
    let retries = options.retries.filter(|retries| *retries > 0).unwrap_or(DEFAULT_RETRIES);
    let status = if streak >= retries { HealthStatus::Unhealthy } else { before };
    (status, streak)
}

fn or_default(nanoseconds: Option<u64>, default: Duration) -> Duration {
    nanoseconds.filter(|ns| *ns > 0).map_or(default, Duration::from_nanos)
}

impl Driver {
    /// Begins to probe the run that has just begun, or goes on with it.
    pub(super) fn begin_probes(&mut self) {
        let Some(options) = self.record.life.health.clone() else { return };
        let Some(live) = self.live.clone() else { return };
        let health = self.record.state.health.get_or_insert_default().clone();
        let probes = Probes {
            process: probe_process(&live),
            live,
            options,
            health,
            started: self.record.state.started_at.unwrap_or_else(Timestamp::now),
        };
        let (run, reports) = (self.record.state.run, self.reports.clone());
        let task = tokio::spawn(probes.go_on(move |status, streak, result| {
            let result = Box::new(result);
            reports
                .send(Message::Happened(Box::new(Happened::Probed { run, status, streak, result })))
                .is_ok()
        }));
        if let Some(old) = self.health.replace(task) {
            old.abort();
        }
    }

    pub(super) fn end_probes(&mut self) {
        if let Some(probes) = self.health.take() {
            probes.abort();
        }
    }

    pub(super) fn probed(&mut self, status: HealthStatus, streak: u32, result: HealthResult) {
        let health = self.record.state.health.get_or_insert_default();
        let changed = health.status != status;
        health.status = status;
        health.failing_streak = streak;
        if health.log.len() == KEPT_RESULTS {
            health.log.remove(0);
        }
        health.log.push(result);
        self.commit(false);
        if changed {
            self.tell(format!("health_status: {}", status.name()), &[]);
        }
    }
}

/// A number that no probe of this machine had, whichever daemon made it: one of two thousand million, at random.
fn probe_process_id() -> ProcessId {
    let mut bytes = [0; 4];
    // Should the kernel give none, the agent refuses a number that was used, and the probe fails.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    ProcessId(PROBE_PROCESSES | u32::from_ne_bytes(bytes))
}

/// A probe is as the container's own process, without its streams.
fn probe_process(live: &Live) -> ProcessSpec {
    let mut process = live.process.clone();
    process.terminal = None;
    process.stdin = false;
    process.init = false;
    process
}

/// The probes of one run.
struct Probes {
    process: ProcessSpec,
    live: Arc<Live>,
    options: HealthOptions,
    health: HealthRecord,
    started: Timestamp,
}

impl Probes {
    async fn go_on(mut self, report: impl Fn(HealthStatus, u32, HealthResult) -> bool) {
        let start_period = or_default(self.options.start_period_ns, Duration::ZERO);
        loop {
            let age = Timestamp::now().duration_since(self.started).unsigned_abs();
            let in_start_period = age < start_period;
            let interval = if in_start_period && self.health.status == HealthStatus::Starting {
                or_default(self.options.start_interval_ns, DEFAULT_START_INTERVAL)
            } else {
                or_default(self.options.interval_ns, DEFAULT_INTERVAL)
            };
            sleep(interval).await;
            let result = self.probe().await;
            let age = Timestamp::now().duration_since(self.started).unsigned_abs();
            let (status, streak) = judge(
                &self.options,
                self.health.status,
                self.health.failing_streak,
                result.exit_code == 0,
                age < start_period,
            );
            self.health.status = status;
            self.health.failing_streak = streak;
            if !report(status, streak, result) {
                return;
            }
        }
    }

    async fn probe(&self) -> HealthResult {
        let start = Timestamp::now();
        let limit = or_default(self.options.timeout_ns, DEFAULT_TIMEOUT);
        let mut process = self.process.clone();
        process.process = probe_process_id();
        process.args.clone_from(&self.options.command);
        let id = process.process;
        let (exit_code, output) = match timeout(limit, self.live.run_to_end(process, KEPT_OUTPUT_BYTES)).await
        {
            Ok(Ok((code, output))) => (i32::from(code), output),
            Ok(Err(error)) => (-1, crate::error::describe(&error)),
            Err(_) => {
                let _ = self.live.sandbox.agent().signal(id, crate::record::SIGKILL).await;
                (-1, format!("Health check exceeded timeout ({limit:?})"))
            }
        };
        HealthResult { start, end: Timestamp::now(), exit_code, output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_in_a_row_and_not_while_it_starts() {
        let options = HealthOptions { retries: Some(2), ..Default::default() };
        use HealthStatus::{Healthy, Starting, Unhealthy};
        assert_eq!(judge(&options, Starting, 0, false, true), (Starting, 0));
        assert_eq!(judge(&options, Starting, 0, false, false), (Starting, 1));
        assert_eq!(judge(&options, Starting, 1, false, false), (Unhealthy, 2));
        assert_eq!(judge(&options, Unhealthy, 9, true, false), (Healthy, 0));
        assert_eq!(judge(&options, Healthy, 0, false, true), (Healthy, 1));
    }
}
