//! The processors' threads: one each, from the guest's start to the machine's end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::BuildError;
use super::gate::Gate;
use crate::bus::Bus;
use crate::control::EndCause;
use crate::kvm::{self, Exit, Kicker, Vcpu};
use crate::observer::{Observer, milestone};

/// Enough for the deepest call that answers an exit, in a build without optimisation too.
const STACK_BYTES: usize = 256 << 10;

/// All of them.
pub(super) struct Processors {
    kickers: Vec<Kicker>,
    shared: Arc<Shared>,
}

struct Shared {
    gate: Gate,
    bus: Arc<Bus>,
    observer: Observer,
    /// The first reason to end; the others' are its consequences.
    end: Mutex<Option<EndCause>>,
    ended: OwnedFd,
}

impl Processors {
    /// Lets the guest go.
    pub(super) fn start(
        vcpus: Vec<Vcpu>,
        bus: Arc<Bus>,
        observer: &Observer,
    ) -> Result<Processors, BuildError> {
        kvm::install_kick().map_err(BuildError::Thread)?;
        let ended = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| BuildError::Thread(errno.into()))?;
        let shared = Arc::new(Shared {
            gate: Gate::new(vcpus.len()),
            bus,
            observer: observer.clone(),
            end: Mutex::new(None),
            ended,
        });
        let mut kickers = Vec::with_capacity(vcpus.len());
        // The boot processor's thread comes last, so that nothing of the guest ran if a thread cannot be had.
        for (number, vcpu) in vcpus.into_iter().enumerate().rev() {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new()
                .name(format!("vcpu{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run(vcpu, number == 0))
                .map_err(BuildError::Thread)?;
            kickers.push(Kicker::new(thread));
        }
        Ok(Processors { kickers, shared })
    }

    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    pub(super) fn end_cause(&self) -> EndCause {
        let end = self.shared.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        end.unwrap_or(EndCause::GuestReset)
    }

    /// Returns when no processor runs the guest.
    pub(super) fn pause(&self) {
        self.shared.gate.close();
        for kicker in &self.kickers {
            kicker.kick();
        }
        self.shared.gate.wait_until_empty();
    }

    pub(super) fn resume(&self) {
        self.shared.gate.open();
    }
}

impl Shared {
    fn run(&self, vcpu: Vcpu, boots: bool) {
        let mut vcpu = vcpu.bind();
        // The machine may have been paused, and this thread kicked, before a kick could reach the processor.
        self.gate.pass();
        if boots {
            self.observer.reached(milestone::GUEST_ENTERED);
        }
        let cause = loop {
            match vcpu.run(self.bus.as_ref()) {
                Exit::Kicked => self.gate.pass(),
                Exit::Reset if self.observer.shows_panic() => break EndCause::GuestPanic,
                Exit::Reset => break EndCause::GuestReset,
                Exit::Broken { reason } => {
                    break EndCause::Failed { message: format!("a processor stopped: {reason}") };
                }
            }
        };
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        self.gate.leave();
        // An event counter takes one more.
        let _ = rustix::io::write(&self.ended, &1_u64.to_ne_bytes());
    }
}
