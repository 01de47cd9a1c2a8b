//! What the process gives up about itself before it touches anything of the guest's.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

/// No program that it might be tricked into starting gains privileges, and no other process of the same user, least
/// of all another machine's monitor that a guest took over, reads its memory through /proc or ptrace. SIGPIPE is
/// ignored by Rust's start-up code. SIGTERM keeps its meaning, which is that of pulling the plug; SIGINT goes to
/// whole process groups, and the launcher starts us in one of our own.
///
/// # Errors
///
/// The kernel refused; nothing was built yet.
pub fn drop_ambitions() -> io::Result<()> {
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
