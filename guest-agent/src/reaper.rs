//! The one component that waits for children. Everybody else is told.
//!
//! Children are told apart by number: as nobody else waits, a number stays a child's own until it is reaped here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_protocol::{ExitStatus, ProcessId};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::sys::process::Child;

/// The children that have not been reaped.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    /// What each is for the host; `None` for a worker of the agent's own.
    children: BTreeMap<i32, (Option<ProcessId>, OwnedFd)>,
}

impl Reaper {
    /// Watches a child from now on.
    pub(crate) fn watch(&mut self, process: ProcessId, child: Child) {
        self.children.insert(child.pid, (Some(process), child.pidfd));
    }

    /// Watches a child that works for the agent, and of whose end nobody is told.
    pub(crate) fn watch_worker(&mut self, child: Child) {
        self.children.insert(child.pid, (None, child.pidfd));
    }

    /// How many such children there are.
    pub(crate) fn workers(&self) -> usize {
        self.children.values().filter(|(process, _)| process.is_none()).count()
    }

    /// Kills them. They are still to be reaped.
    pub(crate) fn kill_workers(&self) {
        for (_, pidfd) in self.children.values().filter(|(process, _)| process.is_none()) {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Whether every child has been reaped.
    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Each child's number and its descriptor, which becomes readable once the child has ended.
    pub(crate) fn children(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.children.iter().map(|(&pid, (_, pidfd))| (pid, pidfd.as_fd()))
    }

    /// The number, in the agent's namespace, of a process that has not been reaped.
    pub(crate) fn pid(&self, process: ProcessId) -> Option<i32> {
        self.children.iter().find_map(|(pid, (of, _))| (*of == Some(process)).then_some(*pid))
    }

    /// Reaps a child if it has ended, and gives its end if it was a process of the container. Does not block.
    pub(crate) fn reap(&mut self, pid: i32) -> Option<(ProcessId, ExitStatus)> {
        let (process, pidfd) = self.children.get(&pid)?;
        let process = *process;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(Some(status)) => exit_status(&status),
            Ok(None) | Err(rustix::io::Errno::INTR) => return None,
            // Not there any more, which cannot be. Nobody may wait for ever because of it.
            Err(_) => ExitStatus::Signal(9),
        };
        self.children.remove(&pid);
        process.map(|process| (process, status))
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let small = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(small(code)),
        (None, Some(signal)) => ExitStatus::Signal(small(signal)),
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}
