//! Signal masks and dispositions, and waiting for signals in the small init.

use std::mem::MaybeUninit;

/// A set of signals.
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Every signal.
    pub(crate) fn full() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset writes the whole set and cannot fail on a valid pointer.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: written just above.
        Self(unsafe { set.assume_init() })
    }

    /// No signal.
    pub(crate) fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set and cannot fail on a valid pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: written just above.
        Self(unsafe { set.assume_init() })
    }

    /// Makes this the mask of the (only) thread.
    pub(crate) fn block(&self) {
        // SAFETY: the set is valid for the call; the old mask is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }

    /// Waits until one of these blocked signals is pending, and takes it.
    pub(crate) fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
        signal
    }
}

/// Undoes what Rust's runtime did: it ignores SIGPIPE, and an ignored signal stays ignored across execve.
pub(crate) fn restore_default_pipe_signal() {
    // SAFETY: SIG_DFL is a valid disposition of SIGPIPE, and no handler is lost.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
