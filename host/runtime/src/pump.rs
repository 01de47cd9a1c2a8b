//! Moves a process's streams: output from the guest to the log and the clients, input from clients to the guest.
//!
//! Output is acknowledged to the guest once it is in the log, and not before: whenever this process is killed, the
//! guest still has what the log lacks.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capsid_protocol::StreamKind;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::agent::{InputStream, OutputStream};
use crate::error::ContainerError;
use crate::folders::ContainerFolder;
use crate::logs::{ContainerFacts, LogAttributes, LogConfig, LogPosition, LogStream, LogWriter};
use crate::record::ContainerRecord;
use crate::streams::{Chunk, Input, RunStreams};

/// Most bytes that are read at once.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Between two attempts to write a log when there is no space for it.
const FULL_DISK_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// A container's log, open for its run.
#[derive(Debug)]
pub struct LogSink {
    writer: Mutex<LogWriter>,
}

impl LogSink {
    /// Opens the log for the run that the record tells. What was not recorded when an earlier daemon was killed is cut
    /// off, and read from the guest again.
    ///
    /// # Errors
    ///
    /// When its files cannot be had.
    pub(crate) fn open(
        folder: &ContainerFolder,
        record: &ContainerRecord,
    ) -> Result<LogSink, ContainerError> {
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| ContainerError::host("open the log", error);
        let options = &record.life.log;
        let config =
            LogConfig::parse(&options.driver, &options.options).map_err(|error| failed(error.into()))?;
        let facts = ContainerFacts {
            id: record.id.to_string(),
            name: record.name.to_string(),
            image_id: record.image_id.clone(),
            image_name: record.image.clone(),
            labels: record.options.labels.clone(),
            environment: record.options.env.clone(),
        };
        let attributes = LogAttributes::of(&config, &facts).map_err(|error| failed(error.into()))?;
        let mut writer = LogWriter::open(&log_path(folder, record), &config, &attributes)
            .map_err(|error| failed(error.into()))?;
        writer.begin_run(u64::from(record.state.run)).map_err(|error| failed(error.into()))?;
        Ok(LogSink { writer: Mutex::new(writer) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LogWriter> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where a stream must be read.
    pub(crate) fn offset(&self, stream: StreamKind) -> u64 {
        self.lock().offsets().of(log_stream(stream))
    }

    /// Where readers of the log begin.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.lock().position()
    }

    /// Everything is written: readers that follow end.
    pub(crate) fn end_run(&self) {
        self.lock().end_run();
    }
}

fn log_stream(stream: StreamKind) -> LogStream {
    match stream {
        StreamKind::Stderr => LogStream::Stderr,
        StreamKind::Stdout | StreamKind::Terminal => LogStream::Stdout,
    }
}

/// Where a container's log is.
#[must_use]
pub fn log_path(folder: &ContainerFolder, record: &ContainerRecord) -> std::path::PathBuf {
    folder.path().join(format!("{}-json.log", record.id))
}

/// What an output is moved with.
pub(crate) struct OutputPump {
    pub(crate) stream: StreamKind,
    /// Absent: output that nobody hears is dropped.
    pub(crate) log: Option<Arc<LogSink>>,
    pub(crate) streams: Arc<RunStreams>,
    /// For messages.
    pub(crate) container: String,
}

/// Moves an output until it ends, or the machine does.
pub(crate) async fn pump_output(mut output: OutputStream, pump: OutputPump) {
    let mut received = output.offset();
    let stream = log_stream(pump.stream);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = match output.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(container = %pump.container, %error, "an output ended early");
                break;
            }
        };
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        if let Some(log) = &pump.log {
            append(log, &pump, received, &bytes).await;
        }
        received += count as u64;
        let acknowledged = pump.log.as_ref().map_or(received, |log| log.offset(pump.stream));
        pump.streams.publish(&Chunk { stream: pump.stream, bytes }).await;
        if output.acknowledge(acknowledged).await.is_err() {
            break;
        }
    }
    if let Some(log) = &pump.log {
        let finished = log.lock().finish_stream(stream);
        if let Err(error) = finished {
            tracing::error!(container = %pump.container, %error, "the last line of the output is not in the log");
        }
    }
    let _ = output.acknowledge(received).await;
}

/// Writes a chunk to the log, however long it takes until there is space: the process waits meanwhile, and nothing is
/// lost.
async fn append(log: &LogSink, pump: &OutputPump, offset: u64, bytes: &[u8]) {
    let mut told = false;
    loop {
        let written = log.lock().append(log_stream(pump.stream), offset, bytes);
        let Err(error) = written else { return };
        if !std::mem::replace(&mut told, true) {
            let error = crate::error::describe(&error);
            tracing::error!(container = %pump.container, "the log cannot be written, and the container waits: {error}");
        }
        tokio::time::sleep(FULL_DISK_PAUSE).await;
    }
}

/// Moves input to a process until the input or the process ends.
pub(crate) async fn pump_input(
    mut source: mpsc::Receiver<Input>,
    mut input: InputStream,
    streams: Arc<RunStreams>,
) {
    loop {
        let given = tokio::select! {
            given = source.recv() => given,
            () = streams.ended() => None,
        };
        let Some(given) = given else { return };
        let moved = match given {
            Input::Bytes(bytes) => input.write_all(&bytes).await,
            Input::End => {
                let _ = input.finish().await;
                return;
            }
        };
        if moved.is_err() {
            return;
        }
    }
}
