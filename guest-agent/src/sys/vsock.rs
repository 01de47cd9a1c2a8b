//! Sockets between the machine and its host.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The host's address (`VMADDR_CID_HOST`, virtio 1.2, 5.10.4).
pub(crate) const HOST_CID: u32 = libc::VMADDR_CID_HOST;

#[allow(clippy::cast_possible_truncation, reason = "the size and the family are small constants")]
const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: a structure of integers, for which all zeroes are valid.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    #[allow(clippy::cast_possible_truncation, reason = "AF_VSOCK is 40")]
    #[allow(clippy::cast_sign_loss, reason = "AF_VSOCK is 40")]
    {
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    }
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let number = super::check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | flags, 0) })?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Listens on a port of this machine; accepting does not block.
///
/// # Errors
///
/// As of socket(2), bind(2), listen(2).
pub(crate) fn listen(port: u32, backlog: i32) -> io::Result<OwnedFd> {
    let socket = socket(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the address is valid for the call and its size is given.
    super::check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) })?;
    // SAFETY: no memory is involved.
    super::check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// Takes one waiting connection: the connection, which does not block, and its peer's address.
///
/// # Errors
///
/// As of accept4(2); `WouldBlock` when none waits.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, u32)> {
    let mut peer = address(0, 0);
    let mut size = ADDRESS_BYTES;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the address and its size are valid for the call, and the kernel writes at most `size` bytes.
    let number = super::check(unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut size, flags)
    })?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok((unsafe { OwnedFd::from_raw_fd(number) }, peer.svm_cid))
}

/// Connects to a port of the host. Blocks until it answers, for at most two seconds (the kernel's default).
///
/// # Errors
///
/// As of socket(2), connect(2).
pub(crate) fn dial_host(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(libc::SOCK_CLOEXEC)?;
    let address = address(HOST_CID, port);
    // SAFETY: the address is valid for the call and its size is given.
    super::check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) })?;
    Ok(socket)
}
