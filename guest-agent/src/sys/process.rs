//! Forking, executing, and what a child must do in between.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::thread::UnshareFlags;

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Forked {
    /// The process that asked.
    Parent(Child),
    /// The new process.
    Child,
}

/// A child that has not been waited for.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its number in the agent's process namespace.
    pub(crate) pid: i32,
    /// Becomes readable when it ends.
    pub(crate) pidfd: OwnedFd,
}

/// Forks, with `namespaces` (`CLONE_NEW…`) new for the child, which starts in `cgroup`.
///
/// The agent has one thread, so the child may use everything of std.
///
/// # Errors
///
/// As of clone3(2).
pub(crate) fn fork(namespaces: UnshareFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut flags = u64::from(namespaces.bits()) | libc::CLONE_PIDFD as u64;
    let mut cgroup_number = 0;
    if let Some(cgroup) = cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup_number = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup_number,
    };
    // SAFETY: without CLONE_VM and with a zero stack this is fork(2): the child goes on with its own copy of this
    // memory. The structure outlives the call, and `pidfd` is written only in the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => {
            // SAFETY: the kernel has put a new descriptor there that nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Child { pid, pidfd }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// linux/sched.h; beyond the 32 bits of clone(2), only for clone3(2).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Gives this process namespaces of its own.
///
/// # Errors
///
/// As of unshare(2).
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptors are never unshared (no CLONE_FILES here), which is the one danger of it.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(Into::into)
}

/// Replaces the program of this process. Returns only if that fails.
pub(crate) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both arrays end with a null pointer, and the strings they point to outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// The array of pointers that execve takes, with the null at its end.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Closes every descriptor from 3 up, but for those in `keep`.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept {
        if number > first {
            close_range(first, number - 1);
        }
        first = first.max(number + 1);
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: called in a fresh child alone, which never returns to the owners of these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Ends this process at once: no destructors, no flushing, which a child must not do for its parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Sends any signal, also a real-time one, to one process or, with a negative number, to a group.
///
/// # Errors
///
/// As of kill(2).
pub(crate) fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    super::check(unsafe { libc::kill(pid, signal) }).map(drop)
}
