//! This process's standard input on its way to a container's.
//!
//! A thread reads, since nothing can wait for a terminal without blocking; a task sends. The thread ends with the
//! process: nothing waits for a read of a terminal.

use capsid_api::detach::DetachKeys;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread;

use capsid_api::client::Sender;
use tokio::sync::{mpsc, oneshot};

use super::Wiring;

/// Size of one read, in bytes.
const BLOCK_BYTES: usize = 128 << 10;
/// Blocks that wait to be sent.
const WAITING_BLOCKS: usize = 4;

/// Input under way.
#[derive(Debug)]
pub(crate) struct Input {
    detached: Option<oneshot::Receiver<()>>,
}

impl Input {
    /// Starts to copy. The end of this process's input ends the container's.
    pub(super) fn start(sender: Sender, wiring: &Wiring) -> io::Result<Input> {
        let blocks = read_blocks()?;
        let keys = if wiring.terminal { wiring.detach_keys.clone() } else { Vec::new() };
        let (told, detached) = oneshot::channel();
        tokio::spawn(send(blocks, sender, DetachKeys::new(keys), told));
        Ok(Input { detached: Some(detached) })
    }

    /// Returns when the keys to detach were typed, and never otherwise.
    pub(super) async fn detached(&mut self) {
        if let Some(detached) = &mut self.detached
            && detached.await.is_ok()
        {
            return;
        }
        self.detached = None;
        std::future::pending().await
    }
}

fn read_blocks() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let mut from = File::from(rustix::stdio::stdin().as_fd().try_clone_to_owned()?);
    let (sender, receiver) = mpsc::channel(WAITING_BLOCKS);
    thread::Builder::new().name("input".into()).stack_size(64 << 10).spawn(move || {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match from.read(&mut block) {
                Ok(count @ 1..) => {
                    if sender.blocking_send(block.get(..count).unwrap_or_default().to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its end, or a terminal that is gone.
                _ => return,
            }
        }
    })?;
    Ok(receiver)
}

async fn send(
    mut blocks: mpsc::Receiver<Vec<u8>>,
    mut sender: Sender,
    mut keys: DetachKeys,
    detached: oneshot::Sender<()>,
) {
    while let Some(block) = blocks.recv().await {
        let (passed, found) = keys.pass(&block);
        // A container that reads no more is no failure.
        if !passed.is_empty() && sender.send(&passed).await.is_err() {
            return;
        }
        if found {
            let _ = detached.send(());
            return;
        }
    }
    let _ = sender.finish().await;
}
