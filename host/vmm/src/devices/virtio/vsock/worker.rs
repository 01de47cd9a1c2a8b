//! The device's one thread: waits for the guest's kicks, the host's clients and their sockets, and serves them in
//! rounds of bounded size, so that none starves another.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::super::ring::{Access, Ring, RingFault};
use super::super::{ActivateError, Activation, GuestMemory, Interrupt, take_queue};
use super::clients::Clients;
use super::connection::Connection;
use super::packet::StrayReset;
use super::table::Table;
use super::{QUEUE_RX, QUEUE_TX};

const TOKEN_STOP: u64 = 0;
const TOKEN_LISTENER: u64 = 1;
/// Kicks need no look: they wake the thread, and every round serves both rings.
const TOKEN_KICK: u64 = 2;
const FIRST_ID: u64 = 16;

/// Most new clients in one round.
const MAX_ACCEPTS: usize = 16;
/// Events taken from the kernel at once.
const MAX_EVENTS: usize = 64;
/// How long to leave the listener alone when there are no descriptors to be had.
const ACCEPT_PAUSE_MS: i32 = 50;

/// What the device keeps over activations, and lends to each.
pub(super) struct Host {
    pub(super) guest_cid: u64,
    pub(super) listener: UnixListener,
    pub(super) guest_dials: Option<PathBuf>,
}

/// State of an active device.
pub(super) struct Worker {
    pub(super) host: Arc<Host>,
    pub(super) memory: GuestMemory,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    pub(super) table: Table,
    /// Streams that have something for the guest, in turn.
    pub(super) senders: VecDeque<u64>,
    pub(super) strays: VecDeque<StrayReset>,
    /// The guest offers no buffer, and will kick when it does.
    pub(super) starved: bool,
    interrupt: Arc<dyn Interrupt>,
    clients: Clients,
    epoll: Epoll,
    stop: EventFd,
    kicks: [EventFd; 2],
    next_id: u64,
    accept_paused: bool,
}

impl Worker {
    /// Takes the queues. Clients that connected before wait in the listener's queue.
    pub(super) fn new(
        host: Arc<Host>,
        activation: Activation,
        stop: EventFd,
    ) -> Result<Worker, ActivateError> {
        let Activation { memory, mut queues, interrupt, .. } = activation;
        let (rx, tx) = (take_queue(&mut queues, QUEUE_RX)?, take_queue(&mut queues, QUEUE_TX)?);
        let clone = |kick: &EventFd| kick.try_clone().map_err(ActivateError::Start);
        let kicks = [clone(&rx.kick)?, clone(&tx.kick)?];
        let epoll = Epoll::new().map_err(ActivateError::Start)?;
        Ok(Worker {
            rx: Ring::new(rx, Access::Write, interrupt.clone()),
            tx: Ring::new(tx, Access::Read, interrupt.clone()),
            host,
            memory,
            table: Table::new(),
            senders: VecDeque::new(),
            strays: VecDeque::new(),
            starved: false,
            interrupt,
            clients: Clients::default(),
            epoll,
            stop,
            kicks,
            next_id: FIRST_ID,
            accept_paused: false,
        })
    }

    /// Registers what is waited for. Kicks are edge-triggered and never read: each one wakes the thread.
    pub(super) fn register(&self) -> io::Result<()> {
        self.watch(TOKEN_STOP, &self.stop, EventSet::IN)?;
        self.watch(TOKEN_LISTENER, &self.host.listener, EventSet::IN)?;
        for kick in &self.kicks {
            self.watch(TOKEN_KICK, kick, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        }
        Ok(())
    }

    /// Serves until told to stop, or until the driver broke a ring.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::default(); MAX_EVENTS];
        loop {
            let memory = self.memory.memory();
            let more = match self.serve(&memory) {
                Ok(more) => more,
                Err(_fault) => {
                    // The guest sees it in the device's status; what was connected is cut off.
                    self.interrupt.needs_reset();
                    return;
                }
            };
            drop(memory);
            let timeout_ms = match (more, self.accept_paused) {
                (true, _) => 0,
                (false, true) => ACCEPT_PAUSE_MS,
                (false, false) => -1,
            };
            let count = match self.epoll.wait(timeout_ms, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(_) => return,
            };
            if self.dispatch(&events[..count]) {
                return;
            }
        }
    }

    /// One round. True if there is more to do at once.
    fn serve(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingFault> {
        let more_to_send = self.send_to_guest(memory)?;
        let more_to_receive = self.receive_from_guest(memory)?;
        self.rx.announce(memory)?;
        self.tx.announce(memory)?;
        let answers = !self.senders.is_empty() || !self.strays.is_empty();
        Ok(more_to_send || more_to_receive || (answers && !self.starved))
    }

    /// True if it is time to stop.
    fn dispatch(&mut self, events: &[EpollEvent]) -> bool {
        let paused = std::mem::take(&mut self.accept_paused);
        let mut accept = paused;
        for event in events {
            match event.data() {
                TOKEN_STOP => return true,
                TOKEN_KICK => {}
                TOKEN_LISTENER => accept = true,
                id => self.socket_event(id, event.event_set()),
            }
        }
        if accept {
            self.accept_clients();
            if self.accept_paused != paused {
                let interest = if self.accept_paused { EventSet::empty() } else { EventSet::IN };
                let event = EpollEvent::new(interest, TOKEN_LISTENER);
                let listener = self.host.listener.as_raw_fd();
                let _ = self.epoll.ctl(ControlOperation::Modify, listener, event);
            }
        }
        false
    }

    fn socket_event(&mut self, id: u64, happened: EventSet) {
        if let Some((port, socket)) = self.clients.advance(id) {
            self.dial_guest(id, port, socket);
        }
        let Some(stream) = self.table.get(id) else { return };
        if happened.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            stream.readable = true;
        }
        if happened.contains(EventSet::OUT) {
            stream.flush();
        }
        if happened.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            stream.hang_up();
        }
        self.settle(id);
    }

    /// Puts a stream in the line of senders if it belongs there, or drops it if it is over.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(stream) = self.table.get(id) else { return };
        if stream.is_over() {
            self.table.remove(id);
            return;
        }
        if stream.wants_to_send() && !stream.queued {
            stream.queued = true;
            self.senders.push_back(id);
        }
    }

    fn accept_clients(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(&self.host.listener, flags) {
                Ok(socket) => {
                    let socket = UnixStream::from(socket);
                    if let Some(id) = self.watch_socket(&socket) {
                        self.clients.insert(id, socket);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // Out of descriptors or memory: the clients wait, and the thread does not spin.
                    self.accept_paused = true;
                    return;
                }
            }
        }
    }

    /// Polls a socket under a new id. None if the kernel has no room for it: then it is let go.
    pub(super) fn watch_socket(&mut self, socket: &UnixStream) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let interest = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.watch(id, socket, interest).ok().map(|()| id)
    }

    /// A client has said which port it wants. Its id stays.
    fn dial_guest(&mut self, id: u64, port: u32, socket: UnixStream) {
        if self.table.is_full() {
            return;
        }
        let ports = self.table.free_port(port);
        self.table.insert(id, Connection::dial(ports), socket);
        self.settle(id);
    }

    fn watch(&self, token: u64, descriptor: &impl AsRawFd, interest: EventSet) -> io::Result<()> {
        let descriptor: RawFd = descriptor.as_raw_fd();
        self.epoll.ctl(ControlOperation::Add, descriptor, EpollEvent::new(interest, token))
    }
}
