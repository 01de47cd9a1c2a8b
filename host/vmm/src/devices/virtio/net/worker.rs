//! The device's one thread: waits for the guest's kicks and for the socket, and serves both in rounds of bounded size.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::super::ring::{Access, Ring, RingFault};
use super::super::{ActivateError, Activation, GuestMemory, Interrupt, take_queue};
use super::link::Link;
use super::receive::Agreed;
use super::{GUEST_CSUM, MRG_RXBUF, QUEUE_RX, QUEUE_TX, STATUS_OFFSET};

const TOKEN_STOP: u64 = 0;
/// Kicks need no look: they wake the thread, and every round serves both rings.
const TOKEN_KICK: u64 = 1;
const TOKEN_SOCKET: u64 = 2;

/// State of an active device.
pub(super) struct Worker {
    pub(super) link: Link,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    pub(super) agreed: Agreed,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    epoll: Epoll,
    _stop: EventFd,
    // Polled for as long as they are open.
    _kicks: [EventFd; 2],
    /// The guest was told that the link is up, or has not been told otherwise.
    seen_up: bool,
}

impl Worker {
    /// Takes the queues. The link comes back if that fails.
    pub(super) fn new(
        link: Link,
        activation: Activation,
        stop: EventFd,
    ) -> Result<Worker, (Link, ActivateError)> {
        let Activation { memory, mut queues, interrupt, features } = activation;
        let clone = |kick: &EventFd| kick.try_clone().map_err(ActivateError::Start);
        let parts = take_queue(&mut queues, QUEUE_RX).and_then(|rx| {
            let tx = take_queue(&mut queues, QUEUE_TX)?;
            let kicks = [clone(&rx.kick)?, clone(&tx.kick)?];
            let epoll = watch(&link, &stop, &kicks).map_err(ActivateError::Start)?;
            Ok((rx, tx, kicks, epoll))
        });
        let (rx, tx, kicks, epoll) = match parts {
            Ok(parts) => parts,
            Err(error) => return Err((link, error)),
        };
        let agreed = Agreed { merges: features & MRG_RXBUF != 0, trusts: features & GUEST_CSUM != 0 };
        Ok(Worker {
            seen_up: link.is_up(),
            link,
            rx: Ring::new(rx, Access::Write, interrupt.clone()),
            tx: Ring::new(tx, Access::Read, interrupt.clone()),
            agreed,
            memory,
            interrupt,
            epoll,
            _stop: stop,
            _kicks: kicks,
        })
    }

    /// Serves until told to stop, or until the driver broke a ring. Gives the link back.
    pub(super) fn run(mut self) -> Link {
        let mut events = [EpollEvent::default(); 8];
        loop {
            let memory = self.memory.memory();
            let more = match self.serve(&memory) {
                Ok(more) => more,
                Err(_fault) => {
                    self.interrupt.needs_reset();
                    return self.link;
                }
            };
            drop(memory);
            let count = match self.epoll.wait(if more { 0 } else { -1 }, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(_) => return self.link,
            };
            if self.dispatch(&events[..count]) {
                return self.link;
            }
        }
    }

    /// One round. True if there is more to do at once.
    fn serve(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        let more_to_receive = self.receive(memory)?;
        let more_to_send = self.transmit(memory)?;
        self.rx.announce(memory)?;
        self.tx.announce(memory)?;
        if self.seen_up && !self.link.is_up() {
            self.seen_up = false;
            self.interrupt.config(STATUS_OFFSET, &[0, 0]);
        }
        Ok(more_to_receive || more_to_send)
    }

    /// True if it is time to stop.
    fn dispatch(&mut self, events: &[EpollEvent]) -> bool {
        for event in events {
            match event.data() {
                TOKEN_STOP => return true,
                TOKEN_SOCKET => {
                    let happened = event.event_set();
                    let closed = EventSet::HANG_UP | EventSet::ERROR;
                    let readable = happened.intersects(EventSet::IN | EventSet::READ_HANG_UP | closed);
                    self.link.note(readable, happened.intersects(EventSet::OUT | closed));
                }
                _ => {}
            }
        }
        false
    }
}

/// Registers what is waited for. Kicks are edge-triggered and never read: each one wakes the thread.
fn watch(link: &Link, stop: &EventFd, kicks: &[EventFd; 2]) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |token, descriptor: &dyn AsRawFd, interest| {
        epoll.ctl(ControlOperation::Add, descriptor.as_raw_fd(), EpollEvent::new(interest, token))
    };
    add(TOKEN_STOP, stop, EventSet::IN)?;
    for kick in kicks {
        add(TOKEN_KICK, kick, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
    }
    let interest = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    add(TOKEN_SOCKET, link, interest)?;
    Ok(epoll)
}
