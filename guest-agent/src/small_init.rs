//! `--init`: PID 1 of a container whose program does not want to be it. Forwards signals, reaps, and ends as the
//! program ends.
//!
//! It is the agent's own code in a forked child: nothing has to be found or executed.

use rustix::process::{Pid, WaitOptions};
use rustix::thread::UnshareFlags;

use crate::error::{Step, StepError};
use crate::sys;
use crate::sys::process::Forked;
use crate::sys::signals::SignalSet;

/// Forks; returns in the child, which is to become the program, while this process stays as init and never returns.
///
/// # Errors
///
/// The fork failed.
pub(crate) fn stay_as_init(terminal: bool) -> Result<(), StepError> {
    let all = SignalSet::full();
    // Before the fork: no signal may be lost between the two.
    all.block();
    match sys::process::fork(UnshareFlags::empty(), None).step(|| "failed to start the program".to_owned())? {
        Forked::Parent(child) => {
            // Programs and people look for it by the name that Docker's has.
            let _ = rustix::thread::set_name(c"docker-init");
            // The status channel and the like: they must end when the program takes them over.
            sys::process::close_all_but(&[]);
            forward_and_reap(&all, child.pid)
        }
        Forked::Child => {
            become_foreground(terminal);
            Ok(())
        }
    }
}

/// The program gets a process group of its own, so that a terminal's signals reach it and not this init twice.
fn become_foreground(terminal: bool) {
    let _ = rustix::process::setpgid(None, None);
    if terminal {
        // SIGTTOU is blocked here, so this does not stop the process.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
    }
}

fn forward_and_reap(signals: &SignalSet, program: i32) -> ! {
    loop {
        match signals.wait() {
            libc::SIGCHLD => {
                if let Some(code) = reap(program) {
                    sys::process::exit_now(code);
                }
            }
            // Meant for whoever reads or writes a terminal in the background, which this process never does.
            libc::SIGTTIN | libc::SIGTTOU => {}
            signal => {
                let _ = sys::process::send_signal(program, signal);
            }
        }
    }
}

/// Reaps everything that has ended; the exit code if the program has.
fn reap(program: i32) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Some(pid) == Pid::from_raw(program) {
            let by_signal = status.terminating_signal().map(|signal| 128 + signal);
            code = status.exit_status().or(by_signal);
        }
    }
    code
}
