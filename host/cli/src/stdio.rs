//! Copies between this process's standard streams and the container's, each in a thread of its own: blocking copies
//! of large blocks are the fastest way, and a stream that stalls stalls nothing else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use capsid_protocol::OUTPUT_WINDOW_BYTES;
use capsid_runtime::timeline::HostMoment;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Size of a copy's blocks, in bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// How many bytes of output are acknowledged together: the agent waits when four times as many are not.
const ACKNOWLEDGED_AT_ONCE: u64 = OUTPUT_WINDOW_BYTES as u64 / 4;
/// How long a guest whose process has ended may take to send the next byte of its output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Output of the container on its way to one of this process's streams.
#[derive(Debug)]
pub(crate) struct OutputCopy {
    progress: Arc<Progress>,
    done: oneshot::Receiver<io::Result<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    /// Whether it is this process's side that is waited for.
    writing: AtomicBool,
    /// Microseconds of the host's clock; 0 is never.
    first_byte: AtomicU64,
}

/// Starts to copy to `to`, one of this process's standard streams.
pub(crate) fn copy_output(mut from: UnixStream, to: BorrowedFd<'_>) -> io::Result<OutputCopy> {
    let mut to = File::from(to.try_clone_to_owned()?);
    let progress = Arc::new(Progress::default());
    let (sender, done) = oneshot::channel();
    let shared = Arc::clone(&progress);
    thread::Builder::new().name("output".into()).stack_size(64 << 10).spawn(move || {
        // The receiver may have given up on the guest.
        let _ = sender.send(copy_all(&mut from, &mut to, &shared));
    })?;
    Ok(OutputCopy { progress, done })
}

fn copy_all(from: &mut UnixStream, to: &mut File, progress: &Progress) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut acknowledged = 0;
    loop {
        let count = match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The machine ended: what it sent before has been written.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        let before = progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if before == 0 {
            progress.first_byte.store(HostMoment::now().0, Ordering::Relaxed);
        }
        progress.writing.store(true, Ordering::Relaxed);
        to.write_all(&block[..count])?;
        progress.writing.store(false, Ordering::Relaxed);
        let written = before + count as u64;
        if written - acknowledged >= ACKNOWLEDGED_AT_ONCE {
            // Nobody reads it when the machine has ended; then the next read says so.
            let _ = from.write_all(&written.to_le_bytes());
            acknowledged = written;
        }
    }
}

impl OutputCopy {
    /// When the first byte came, if one did.
    pub(crate) fn first_byte(&self) -> Option<HostMoment> {
        let at = self.progress.first_byte.load(Ordering::Relaxed);
        (at != 0).then_some(HostMoment(at))
    }

    /// Waits until everything is written. The container's process has ended: a guest that sends nothing and does
    /// not end the stream either is given up on after a while; a slow reader of ours is waited for.
    pub(crate) async fn drained(&mut self) -> io::Result<()> {
        loop {
            let before = self.progress.bytes.load(Ordering::Relaxed);
            tokio::select! {
                done = &mut self.done => return done.unwrap_or(Ok(())),
                () = sleep(DRAIN_TIMEOUT) => {
                    let stuck = self.progress.bytes.load(Ordering::Relaxed) == before;
                    if stuck && !self.progress.writing.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits until the copy fails because nobody reads this process's stream any more; never returns otherwise.
    pub(crate) async fn broken(&mut self) -> io::Error {
        loop {
            match (&mut self.done).await {
                Ok(Err(error)) => return error,
                // Done for good: only `drained` may see that.
                Ok(Ok(())) | Err(_) => {
                    let (sender, done) = oneshot::channel();
                    let _ = sender.send(Ok(()));
                    self.done = done;
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Starts to copy this process's standard input, and ends the container's at its end. The thread ends with the
/// process: nothing waits for a read of a terminal.
pub(crate) fn copy_input(mut to: UnixStream, half_close: bool) -> io::Result<()> {
    let mut from = File::from(rustix::stdio::stdin().as_fd().try_clone_to_owned()?);
    thread::Builder::new().name("input".into()).stack_size(64 << 10).spawn(move || {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match from.read(&mut block) {
                Ok(0) => break,
                Ok(count) if to.write_all(&block[..count]).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The container reads no more, or the input failed: both are its end.
                _ => break,
            }
        }
        if half_close {
            let _ = to.shutdown(Shutdown::Write);
            // Held until the container's side lets go: a connection that is gone altogether means to the agent
            // that its host program was killed and may come back, and not that the input has ended.
            while let Ok(1..) = to.read(&mut block) {}
        }
    })?;
    Ok(())
}
