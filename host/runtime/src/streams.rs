//! The streams of a container's run as clients see them: output that any number of clients hear, input that any
//! client may give. A run's streams exist before its process does, so that a client can attach first and start then.
//!
//! Output waits for its slowest client, as Docker's does: a client that reads everything gets everything. It waits no
//! longer than a grace once the process has ended, and a client that is gone is forgotten at once. Nothing here holds
//! up anything but output.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use capsid_protocol::StreamKind;
use tokio::sync::{mpsc, watch};

/// Chunks that one client may fall behind; a chunk has at most [`crate::pump::CHUNK_BYTES`].
const CLIENT_CHUNKS: usize = 16;
/// Chunks of input that wait for the process.
const INPUT_CHUNKS: usize = 16;
/// How long a client may hold up the output of a process that has ended, as long as Docker gives it.
const SLOW_CLIENT_GRACE: Duration = Duration::from_secs(10);

/// Some output.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Of which stream: stdout, stderr, or the terminal.
    pub stream: StreamKind,
    /// The bytes, at least one.
    pub bytes: Bytes,
}

/// Some input.
#[derive(Debug)]
pub enum Input {
    /// Bytes.
    Bytes(Bytes),
    /// The end.
    End,
}

/// The streams of one run.
#[derive(Debug)]
pub struct RunStreams {
    clients: Mutex<Clients>,
    input: mpsc::Sender<Input>,
    input_end: Mutex<Option<mpsc::Receiver<Input>>>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Clients {
    senders: Vec<mpsc::Sender<Chunk>>,
    closed: bool,
}

impl Default for RunStreams {
    fn default() -> Self {
        let (input, receiver) = mpsc::channel(INPUT_CHUNKS);
        RunStreams {
            clients: Mutex::default(),
            input,
            input_end: Mutex::new(Some(receiver)),
            ended: watch::Sender::new(false),
        }
    }
}

impl RunStreams {
    /// Hears all output from now on; it ends when the run does, at once if it has.
    pub fn subscribe(&self) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(CLIENT_CHUNKS);
        let mut clients = self.lock();
        if !clients.closed {
            clients.senders.push(sender);
        }
        receiver
    }

    /// Where input goes. Sending waits until the process takes it, and fails once the run has ended.
    pub fn input(&self) -> mpsc::Sender<Input> {
        self.input.clone()
    }

    /// Takes the end that input arrives at; whoever moves it to the process. `None` when it was taken.
    pub(crate) fn take_input(&self) -> Option<mpsc::Receiver<Input>> {
        self.input_end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives a chunk to every client, and waits for the slowest.
    pub(crate) async fn publish(&self, chunk: &Chunk) {
        // Cloned: no lock is held while a client is waited for.
        let senders = self.lock().senders.clone();
        if senders.is_empty() {
            return;
        }
        let mut gone = false;
        for sender in senders {
            gone |= !self.give(&sender, chunk).await;
        }
        if gone {
            self.lock().senders.retain(|sender| !sender.is_closed());
        }
    }

    /// Whether the client took it. One that takes nothing for too long after the end is cut off.
    async fn give(&self, sender: &mpsc::Sender<Chunk>, chunk: &Chunk) -> bool {
        if sender.try_send(chunk.clone()).is_ok() {
            return true;
        }
        let mut ended = self.ended.subscribe();
        let patience = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(SLOW_CLIENT_GRACE).await;
        };
        tokio::select! {
            sent = sender.send(chunk.clone()) => sent.is_ok(),
            () = patience => {
                self.lock().senders.retain(|other| !other.same_channel(sender));
                false
            }
        }
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// The process has ended: clients have a grace to take what is left.
    pub(crate) fn process_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Everything was given: tells every client the end.
    pub(crate) fn close(&self) {
        self.process_ended();
        let mut clients = self.lock();
        clients.closed = true;
        clients.senders.clear();
        drop(self.take_input());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of a container: those of its run, or of the next.
#[derive(Debug, Default)]
pub struct Streams {
    current: Mutex<Arc<RunStreams>>,
}

impl Streams {
    /// The streams of the run that is, or of the one to come.
    #[must_use]
    pub fn current(&self) -> Arc<RunStreams> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the streams of the run, and makes those of the next.
    pub(crate) fn renew(&self) {
        let fresh = Arc::new(RunStreams::default());
        let old = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), fresh);
        old.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &'static str) -> Chunk {
        Chunk { stream: StreamKind::Stdout, bytes: Bytes::from_static(text.as_bytes()) }
    }

    #[tokio::test]
    async fn every_client_hears_everything_until_the_end() {
        let streams = Streams::default();
        let run = streams.current();
        let (mut one, mut other) = (run.subscribe(), run.subscribe());
        run.publish(&chunk("a")).await;
        drop(run.subscribe());
        run.publish(&chunk("b")).await;
        streams.renew();
        for client in [&mut one, &mut other] {
            let mut heard = Vec::new();
            while let Some(chunk) = client.recv().await {
                heard.extend(chunk.bytes);
            }
            assert_eq!(heard, b"ab");
        }
        assert!(run.subscribe().recv().await.is_none(), "a run that ended has nothing to say");
        assert!(run.input().send(Input::End).await.is_err(), "and takes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_waited_for_until_the_process_has_ended() {
        let run = RunStreams::default();
        let stuck = run.subscribe();
        for _ in 0..CLIENT_CHUNKS {
            run.publish(&chunk("x")).await;
        }
        let blocked = chunk("y");
        let waiting = tokio::time::timeout(Duration::from_secs(3600), run.publish(&blocked)).await;
        assert!(waiting.is_err(), "while the process runs, it waits");
        run.process_ended();
        run.publish(&blocked).await;
        assert!(run.lock().senders.is_empty());
        drop(stuck);
    }
}
