//! A container's machine while its process runs: what everything that is done in a running container needs.

use std::sync::Arc;
use std::time::Duration;

use capsid_protocol::{Limit, LimitChanges, ProcessId, ProcessSpec, StreamKind, TerminalSize};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::ContainerError;
use crate::pump::LogSink;
use crate::sandbox::Sandbox;
use crate::timeline::Timeline;

/// How long the output of a process that has ended may take to be read to its end. The guest has it all in memory,
/// and gives a process that holds its pipe two seconds.
pub(crate) const OUTPUT_TIMEOUT: Duration = Duration::from_secs(30);

/// The period that processor time is counted against, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;

/// A machine whose process runs.
#[derive(Debug)]
pub struct Live {
    /// The machine.
    pub sandbox: Sandbox,
    /// Which start of the container it is.
    pub run: u32,
    /// The container's own process, as it was started.
    pub process: ProcessSpec,
    /// How long the steps of that start took; nothing after a recovery.
    pub timeline: Timeline,
    /// Its log.
    pub log: Arc<LogSink>,
    /// Those that move its output.
    pub(crate) pumps: Mutex<JoinSet<()>>,
}

impl Live {
    /// Sends a signal to the container's process.
    ///
    /// # Errors
    ///
    /// When it has ended, or the agent does not answer.
    pub async fn signal(&self, signal: i32) -> Result<(), ContainerError> {
        Ok(self.sandbox.or_ended(self.sandbox.agent().signal(ProcessId::INIT, signal)).await?)
    }

    /// Changes the limits of its processes, as far as its machine allows: that does not grow. The result is whether
    /// everything was done; what was not waits for the next start.
    ///
    /// # Errors
    ///
    /// The guest's kernel or the connection to it refused.
    pub async fn set_limits(&self, wanted: LimitChanges) -> Result<bool, ContainerError> {
        let mut possible = wanted;
        let size = self.sandbox.size();
        let most_memory = size.map_or(0, |size| u64::from(size.memory_mib) << 20);
        let most_quota = size.map_or(0, |size| u64::from(size.vcpus) * CPU_PERIOD_US);
        possible.memory_bytes = wanted.memory_bytes.filter(|limit| fits(*limit, most_memory));
        possible.cpu_quota_us = wanted.cpu_quota_us.filter(|limit| fits(*limit, most_quota));
        if possible != LimitChanges::default() {
            self.sandbox.or_ended(self.sandbox.agent().set_limits(possible)).await?;
        }
        Ok(possible == wanted)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    ///
    /// When it has none, has ended, or the agent does not answer.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), ContainerError> {
        Ok(self.sandbox.or_ended(self.sandbox.agent().resize(ProcessId::INIT, size)).await?)
    }

    /// Runs a further process to its end, and gives its exit code and the first `limit` bytes of what it printed.
    /// When the result is not awaited to the end, the process goes on.
    ///
    /// # Errors
    ///
    /// It could not be started, or the machine ended.
    pub(crate) async fn run_to_end(
        &self,
        process: ProcessSpec,
        limit: usize,
    ) -> Result<(u8, String), ContainerError> {
        let (sandbox, id) = (&self.sandbox, process.process);
        let agent = sandbox.agent();
        let mut outputs = Vec::new();
        for stream in outputs_of(&process) {
            outputs.push(sandbox.or_ended(agent.open_output(id, *stream, 0)).await?);
        }
        sandbox.or_ended(agent.start_process(process)).await?;
        let mut printed = Vec::new();
        for mut output in outputs {
            let mut buffer = [0; 4096];
            let mut received = 0;
            while let Ok(count @ 1..) = output.read(&mut buffer).await {
                let room = limit.saturating_sub(printed.len());
                printed.extend_from_slice(&buffer[..count.min(room)]);
                received += count as u64;
                let _ = output.acknowledge(received).await;
            }
        }
        let report = sandbox.or_ended(agent.wait(id)).await?;
        Ok((report.status.exit_code(), String::from_utf8_lossy(&printed).into_owned()))
    }

    /// Waits until all output was read, or takes too long.
    pub(crate) async fn output_finished(&self) {
        let mut pumps = self.pumps.lock().await;
        let all = async { while pumps.join_next().await.is_some() {} };
        if timeout(OUTPUT_TIMEOUT, all).await.is_err() {
            pumps.abort_all();
        }
    }
}

/// Whether a machine that has `most` can give as much.
fn fits(limit: Limit, most: u64) -> bool {
    matches!(limit, Limit::Most(wanted) if wanted <= most)
}

fn outputs_of(process: &ProcessSpec) -> &'static [StreamKind] {
    outputs(process.terminal.is_some())
}

/// The output streams of a process.
pub(crate) fn outputs(terminal: bool) -> &'static [StreamKind] {
    if terminal { &[StreamKind::Terminal] } else { &[StreamKind::Stdout, StreamKind::Stderr] }
}
