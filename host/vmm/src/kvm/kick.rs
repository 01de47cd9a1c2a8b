//! Getting a processor's thread out of the guest, from another thread.
//!
//! A signal's handler sets `immediate_exit` of the thread's own processor. If the signal comes while the guest runs, it
//! ends the run; if it comes at any other time, the flag ends the next: no kick is lost from the moment on at which the
//! processor was bound to its thread.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    static OWN_RUN: Cell<*mut kvm_run> = const { Cell::new(std::ptr::null_mut()) };
}

/// Installs the handler, once per process, before the first processor runs.
///
/// # Errors
///
/// The system refused.
pub fn install() -> std::io::Result<()> {
    register_signal_handler(SIGRTMIN(), handle).map_err(std::io::Error::from)
}

extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let run = OWN_RUN.get();
    if !run.is_null() {
        // SAFETY: the pointer is to the mapped run structure of a processor that this very thread owns and has not
        // dropped (`Arm` clears it before). Only this thread and the kernel look at the byte.
        let flag = unsafe { std::ptr::addr_of_mut!((*run).immediate_exit) };
        // SAFETY: as above, and bytes are aligned anywhere.
        unsafe { flag.write_volatile(1) };
    }
}

/// While it lives, a kick reaches this thread's processor. It stays on its thread.
pub(super) struct Arm(PhantomData<*mut ()>);

impl Arm {
    /// `run` is the mapped structure of a processor that outlives this.
    pub(super) fn new(run: *mut kvm_run) -> Arm {
        OWN_RUN.set(run);
        Arm(PhantomData)
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        OWN_RUN.set(std::ptr::null_mut());
    }
}

/// Kicks one thread.
#[derive(Debug)]
pub struct Kicker {
    thread: JoinHandle<()>,
}

impl Kicker {
    /// Of a thread that runs a processor, or soon will.
    #[must_use]
    pub fn new(thread: JoinHandle<()>) -> Kicker {
        Kicker { thread }
    }

    /// Makes [`super::BoundVcpu::run`] return [`super::Exit::Kicked`] soon, now or when it is called next.
    pub fn kick(&self) {
        // SAFETY: the thread was not joined or detached, so its handle is valid even if it has ended; the signal has
        // a handler, which touches nothing but a thread-local and its own processor's flag.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t(), SIGRTMIN()) };
    }
}
