//! What happens to containers and images, told to whoever listens, with the newest kept for those who come late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

/// How many events are kept for latecomers (moby, `events.eventsLimit`).
const KEPT_EVENTS: usize = 256;
/// How far a listener may fall behind before it misses some.
const LISTENER_EVENTS: usize = 1024;

/// What something happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// The daemon.
    Daemon,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// To what kind of thing.
    pub kind: EventKind,
    /// What, in Docker's words: `start`, `die`, `exec_create: sh`, …
    pub action: String,
    /// To which.
    pub id: String,
    /// More about it.
    pub attributes: BTreeMap<String, String>,
}

/// Where events are told. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kept: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(LISTENER_EVENTS);
        Events { inner: Arc::new(Inner { kept: Mutex::default(), sender }) }
    }
}

impl Events {
    /// Tells an event. Never waits: a listener that is too slow misses the oldest.
    pub fn tell(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let mut kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let event =
            Arc::new(Event { at: Timestamp::now(), kind, action: action.into(), id: id.into(), attributes });
        if kept.len() == KEPT_EVENTS {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&event));
        // Sent under the lock, so that a listener's history and future meet without a gap.
        let _ = self.inner.sender.send(event);
    }

    /// The events that are kept, the oldest first, and a receiver of all that follow them.
    #[must_use]
    pub fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.inner.sender.subscribe())
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.inner.sender.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latecomers_get_the_newest_and_then_what_follows() {
        let events = Events::default();
        for number in 0..KEPT_EVENTS + 10 {
            events.tell(EventKind::Container, format!("{number}"), "id", BTreeMap::new());
        }
        let (kept, mut receiver) = events.listen();
        assert_eq!((kept.len(), kept[0].action.as_str()), (KEPT_EVENTS, "10"));
        events.tell(EventKind::Image, "next", "id", BTreeMap::new());
        assert_eq!(receiver.try_recv().unwrap().action, "next");
        assert!(receiver.try_recv().is_err());
    }
}
