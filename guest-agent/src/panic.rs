//! The agent's last words, and the machine's end.
//!
//! The console is a serial port: every byte of it leaves the machine, so lines are rare and short.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::system::{RebootCommand, reboot};

use crate::sys;

/// Set in a child that has not become its program: its end is its own, not the machine's.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// How a child exits that panicked.
const CHILD_PANIC_EXIT_CODE: i32 = 70;

/// Writes a line to the console.
pub(crate) fn log(line: &str) {
    // The kernel gave the agent its console as standard error. If it has none, nobody can be told.
    let _ = std::io::stderr().write_all(format!("capsid-agent: {line}\n").as_bytes());
}

/// Says that this process is a forked child.
pub(crate) fn mark_as_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
}

/// From here on, a panic ends the machine so that the host sees it: logged, with the disks written.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|information| {
        let _ = std::io::stderr().write_all(format!("capsid-agent panicked: {information}\n").as_bytes());
        if IS_CHILD.load(Ordering::Relaxed) {
            sys::process::exit_now(CHILD_PANIC_EXIT_CODE);
        }
        rustix::fs::sync();
        end_machine();
    }));
}

/// Reboots, which the machine's monitor takes as its end.
pub(crate) fn end_machine() -> ! {
    let _ = reboot(RebootCommand::Restart);
    // Refused only outside a machine of its own. PID 1 that exits is a panic of the kernel, which reboots too.
    sys::process::exit_now(1)
}
