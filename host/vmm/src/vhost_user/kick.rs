//! Turns the descriptor of a kick into the type that devices take.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

/// The emulator promises an eventfd; whatever else it is, it is polled, never read, and no memory depends on it.
pub(super) fn from_file(file: File) -> EventFd {
    let descriptor = file.into_raw_fd();
    // SAFETY: the file has just given up a descriptor that it owned, and nobody else knows of it.
    unsafe { EventFd::from_raw_fd(descriptor) }
}
