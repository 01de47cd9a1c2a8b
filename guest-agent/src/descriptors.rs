//! Descriptors that one process of the agent hands to another, over a socket between them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most at once: a process's stdio.
const MAX_DESCRIPTORS: usize = 3;

/// Sends descriptors, and a byte that says what they are.
///
/// # Errors
///
/// As of sendmsg(2): the other end is gone.
pub(crate) fn send(socket: &OwnedFd, tag: u8, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[io::IoSlice::new(&[tag])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for what [`send`] sends; `None` if the other end is gone.
pub(crate) fn receive(socket: &OwnedFd) -> Option<(u8, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut tag = [0];
    let mut buffers = [io::IoSliceMut::new(&mut tag)];
    let received = recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    if received.bytes == 0 {
        return None;
    }
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    Some((tag[0], descriptors))
}
