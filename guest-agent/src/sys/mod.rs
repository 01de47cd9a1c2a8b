//! Every system call that neither std nor rustix offers safely. The only module of the agent with unsafe code.
//!
//! Called by everyone; knows nothing of containers.
#![allow(unsafe_code)]

pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod vsock;

use std::io;

/// Turns the C convention of `-1` and `errno` into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
