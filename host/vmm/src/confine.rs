//! What the process gives up about itself before it touches anything of the guest's.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};
use rustix::thread::set_no_new_privs;

/// No program that it might be tricked into starting gains privileges, and no other process of the same user, least
/// of all another machine's monitor that a guest took over, reads its memory through /proc or ptrace. SIGPIPE is
/// ignored by Rust's start-up code. SIGTERM keeps its meaning, which is that of pulling the plug.
///
/// The session is one of our own. A terminal's SIGINT is not for us, and, which a process group alone would not do, the
/// launcher's end means nothing to us: when a group loses its last tie to its session while a member is stopped, as the
/// emulator of a paused machine is, the kernel sends SIGHUP to all of it (credentials(7)).
///
/// # Errors
///
/// The kernel refused; nothing was built yet.
pub fn drop_ambitions() -> io::Result<()> {
    // Refused to the leader of a group: whoever started us so has seen to that.
    let _ = setsid();
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
