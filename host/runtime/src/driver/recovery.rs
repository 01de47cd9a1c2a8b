//! The beginning of a driver under a new daemon: what its record says, compared with what is.

use std::sync::Arc;
use std::time::Duration;

use capsid_protocol::{ErrorCode, ProcessId};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Driver;
use super::launch::machine_record;
use crate::error::{ContainerError, describe};
use crate::lifecycle::{Ending, Next, Phase, after_end, starts_with_daemon};
use crate::live::{Live, outputs};
use crate::open::told;
use crate::pump::{LogSink, OutputPump, pump_input, pump_output};
use crate::record::MachineRecord;
use crate::sandbox::{Sandbox, SandboxError};
use crate::spec::ContainerSpec;
use crate::timeline::{HostMoment, Timeline};

/// The exit code of a container whose machine ended while nobody looked: as after SIGKILL.
const MACHINE_ENDED: u8 = 137;
/// How long the agent of a machine that was just taken over may take to say whether it has a process.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(10);

impl Driver {
    /// Sets the container right. The result is its machine, if that goes on.
    pub(crate) async fn recover(&mut self) -> Option<Arc<Live>> {
        let machine = self.record.state.machine.take();
        let was = self.phase();
        let adopted = match machine {
            Some(machine) => self.adopt(&machine, was).await,
            None => None,
        };
        match adopted {
            Some(live) => {
                self.record.state.machine = Some(machine_record(&live.sandbox));
                self.watch(Arc::clone(&live));
                if self.phase() == Phase::Running {
                    self.begin_probes();
                }
                self.commit(false);
                Some(live)
            }
            None => {
                self.settle(was);
                None
            }
        }
    }

    async fn adopt(&mut self, machine: &MachineRecord, was: Phase) -> Option<Arc<Live>> {
        let folders = &self.host.run_folders;
        let adopted = Sandbox::adopt(folders, &self.record.id, machine).await;
        let sandbox = match adopted {
            Ok(sandbox) => sandbox,
            Err(error) => {
                if !matches!(error, SandboxError::Ended(_)) {
                    told("its machine cannot be taken over, and is ended", &self.record.id, &error);
                }
                self.record.state.error = describe(&error);
                return None;
            }
        };
        match self.connect(sandbox, was).await {
            Ok(live) => Some(Arc::new(live)),
            Err(error) => {
                told("its machine cannot be taken over, and is ended", &self.record.id, &error);
                self.record.state.error = describe(&error);
                None
            }
        }
    }

    /// Takes the streams up where the log ends.
    async fn connect(&mut self, sandbox: Sandbox, was: Phase) -> Result<Live, ContainerError> {
        let connected = self.connect_streams(&sandbox, was).await;
        let (process, log, pumps) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                sandbox.stop().await;
                sandbox.clear();
                return Err(error);
            }
        };
        self.record.state.phase = if sandbox.was_paused() { Phase::Paused } else { Phase::Running };
        self.record.state.started_at.get_or_insert_with(Timestamp::now);
        Ok(Live {
            sandbox,
            run: self.record.state.run,
            process,
            timeline: Timeline::from(HostMoment::now()),
            log,
            pumps: tokio::sync::Mutex::new(pumps),
        })
    }

    async fn connect_streams(
        &self,
        sandbox: &Sandbox,
        was: Phase,
    ) -> Result<(capsid_protocol::ProcessSpec, Arc<LogSink>, JoinSet<()>), ContainerError> {
        let image = self.host.image(&self.record.image_id)?;
        let process =
            ContainerSpec::merge(&image.config, &self.record.options, self.record.id.short(), 1)?.process;
        if was == Phase::Starting {
            has_process(sandbox).await?;
        }
        let log = Arc::new(LogSink::open(&self.folder, &self.record)?);
        let streams = self.streams.current();
        let mut pumps = JoinSet::new();
        for stream in outputs(process.terminal.is_some()) {
            let from = log.offset(*stream);
            let opened = sandbox.agent().open_output(ProcessId::INIT, *stream, from);
            let pump = OutputPump {
                stream: *stream,
                log: Some(Arc::clone(&log)),
                streams: Arc::clone(&streams),
                container: self.record.id.short().to_owned(),
            };
            pumps.spawn(pump_output(sandbox.or_ended(opened).await?, pump));
        }
        if process.stdin {
            // A process that has closed its input has none to connect to.
            if let Ok(input) = sandbox.or_ended(sandbox.agent().open_input(ProcessId::INIT)).await
                && let Some(source) = streams.take_input()
            {
                tokio::spawn(pump_input(source, input, Arc::clone(&streams)));
            }
        }
        Ok((process, log, pumps))
    }

    /// A container without a machine: what its record says beyond that is what an earlier daemon left in the middle.
    fn settle(&mut self, was: Phase) {
        let state = &mut self.record.state;
        match was {
            Phase::Created | Phase::Exited | Phase::Dead => {}
            // Nobody was told that it had started.
            Phase::Starting => {
                state.phase = if state.started_at.is_some() { Phase::Exited } else { Phase::Created };
                state.error = String::new();
            }
            Phase::Running | Phase::Paused | Phase::Ending => {
                state.phase = Phase::Exited;
                state.finished_at = Some(Timestamp::now());
                if was == Phase::Ending {
                    // How its process ended is written down; that its machine followed is no news.
                    state.error = String::new();
                } else {
                    state.exit_code = MACHINE_ENDED;
                }
                self.policy_after_end();
            }
            Phase::Restarting => {}
            Phase::Removing => {}
        }
        let state = &self.record.state;
        if state.phase == Phase::Removing {
            return self.begin_removal();
        }
        let starts = starts_with_daemon(self.record.life.restart, state.phase, state.by_hand);
        if starts {
            self.record.state.phase = Phase::Restarting;
            self.await_restart(Duration::ZERO);
        }
        self.commit(true);
        let ended = was != Phase::Created && self.record.state.phase == Phase::Exited;
        if self.record.life.auto_remove && ended {
            self.begin_removal();
        }
    }

    fn policy_after_end(&mut self) {
        let state = &self.record.state;
        let end = Ending {
            failed: state.exit_code != 0,
            by_hand: state.by_hand,
            ran_for: Duration::ZERO,
            restarts: state.restarts,
            last_delay: Duration::from_millis(state.restart_delay_ms),
        };
        if let Next::Restart { .. } = after_end(self.record.life.restart, false, end) {
            self.record.state.phase = Phase::Restarting;
        }
    }
}

/// Whether the machine of a start that was cut off has got its process.
async fn has_process(sandbox: &Sandbox) -> Result<(), ContainerError> {
    let waited = tokio::time::timeout(PROCESS_TIMEOUT, sandbox.agent().wait(ProcessId::INIT)).await;
    match waited {
        Ok(Err(error)) if error.code() == Some(ErrorCode::NotFound) => Err(error.into()),
        _ => Ok(()),
    }
}
