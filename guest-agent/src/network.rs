//! What the machine's network stack needs beyond the kernel's defaults.

use crate::cgroup::write_existing;
use crate::error::{Step, StepError};
use crate::sys;

/// Brings the loopback interface up.
///
/// # Errors
///
/// The kernel refuses.
pub(crate) fn bring_loopback_up() -> Result<(), StepError> {
    sys::interface::loopback_up().step(|| "failed to bring the loopback interface up".to_owned())
}

/// What Docker sets in a network namespace of its own since 20.10: every user may bind low ports and ping.
/// `proc` is where proc is mounted. A kernel without one of them goes without.
pub(crate) fn open_ports_and_ping(proc: &str) {
    let _ = write_existing(&format!("{proc}/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    let _ = write_existing(&format!("{proc}/sys/net/ipv4/ping_group_range"), "0 2147483647");
}
