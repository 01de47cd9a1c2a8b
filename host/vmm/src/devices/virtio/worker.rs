//! The thread behind a device that answers requests one after another: block, entropy, balloon.
//!
//! It sleeps until a queue is kicked, answers everything that is available, and tells the guest once. A queue whose
//! rings make no sense stops the device until its driver resets it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::{ActivateError, Activation};

/// Enough for the deepest call, in a build without optimisation too.
const STACK_BYTES: usize = 256 << 10;

/// Answers a device's requests.
pub(super) trait Handler: Send + 'static {
    /// Answers one request, blocking as long as the host takes. How many bytes were written to the driver's memory.
    fn answer(&mut self, queue: u16, chain: Chain<'_>, memory: &GuestMemoryMmap) -> u32;
}

/// A running thread; dropping it ends it, after the request that it is at.
#[derive(Debug)]
pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(
        name: &str,
        activation: Activation,
        handler: impl Handler,
    ) -> Result<Worker, ActivateError> {
        Worker::try_start(name, activation, handler).map_err(ActivateError::Start)
    }

    fn try_start(name: &str, activation: Activation, handler: impl Handler) -> io::Result<Worker> {
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), EpollEvent::new(EventSet::IN, u64::MAX))?;
        for (index, active) in (0..).zip(&activation.queues) {
            epoll.ctl(
                ControlOperation::Add,
                active.kick.as_raw_fd(),
                EpollEvent::new(EventSet::IN, index),
            )?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = Service { activation, handler, stop: Arc::clone(&stop) };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || service.run(&epoll))?;
        Ok(Worker { stop, wake, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Service<H> {
    activation: Activation,
    handler: H,
    stop: Arc<AtomicBool>,
}

impl<H: Handler> Service<H> {
    fn run(&mut self, epoll: &Epoll) {
        let mut events = [EpollEvent::default(); 4];
        while !self.stopped() {
            let count = match epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(_) => return self.activation.interrupt.needs_reset(),
            };
            for event in &events[..count] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if index < self.activation.queues.len() && self.serve(index).is_err() {
                    return self.activation.interrupt.needs_reset();
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn serve(&mut self, index: usize) -> Result<(), virtio_queue::Error> {
        let active = &mut self.activation.queues[index];
        let _ = active.kick.read();
        let memory = self.activation.memory.memory();
        let stop = &self.stop;
        loop {
            active.queue.disable_notification(&*memory)?;
            while let Some(chain) = next_chain(&mut active.queue, &memory)? {
                let head = chain.head_index();
                let written = self.handler.answer(active.index, chain, &memory);
                active.queue.add_used(&*memory, head, written)?;
                if stop.load(Ordering::SeqCst) {
                    return Ok(());
                }
            }
            if active.queue.needs_notification(&*memory)? {
                self.activation.interrupt.queue(active.index);
            }
            if !active.queue.enable_notification(&*memory)? || stop.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }
}

/// The next request, if there is one. An error if the ring holds more than it can.
fn next_chain<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap,
) -> Result<Option<Chain<'m>>, virtio_queue::Error> {
    Ok(queue.iter(memory)?.next())
}
