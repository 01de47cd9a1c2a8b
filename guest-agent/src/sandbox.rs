//! What the server needs of the machine: the seam at which tests put a machine of their own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_protocol::{
    ErrorCode, FilesWork, LimitChanges, PrepareRoot, ProcessId, ProcessSpec, Processes, Refusal, Statistics,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use crate::cgroup::ContainerGroup;
use crate::error::{Step, StepError, refusal};
use crate::stdio::{self, Stdio};
use crate::streams::Streams;
use crate::sys::process::{Child, Forked};
use crate::{container, files, launch, observe, overlay, root, sys};

/// A process that is about to become its program.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The new child; `None` for the container's own process, which [`Sandbox::prepare`] has given.
    pub(crate) child: Option<Child>,
    /// See [`launch`].
    pub(crate) status: OwnedFd,
    /// The agent's side of its stdio.
    pub(crate) streams: Streams,
}

/// A place in which one container runs.
pub(crate) trait Sandbox {
    /// Prepares it, once, and gives the container's first process, which waits.
    ///
    /// # Errors
    ///
    /// What was wrong; the sandbox is of no further use.
    fn prepare(&mut self, request: &PrepareRoot) -> Result<Child, Refusal>;

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// What failed before the child could report for itself.
    fn start(&mut self, spec: &ProcessSpec) -> Result<Launched, Refusal>;

    /// Starts a worker that does `work` for the host at the other end of `connection` and answers its opening. `early`
    /// has arrived on it already.
    ///
    /// # Errors
    ///
    /// There is no worker; the opening is still to be answered.
    fn work_on_files(
        &mut self,
        work: &FilesWork,
        connection: BorrowedFd<'_>,
        early: &[u8],
    ) -> Result<Child, Refusal>;

    /// Whether the kernel has killed something of the container for lack of memory.
    fn oom_killed(&self) -> bool;

    /// What runs in the container.
    ///
    /// # Errors
    ///
    /// There is nothing to look at yet.
    fn processes(&self) -> Result<Processes, Refusal>;

    /// What the container uses.
    ///
    /// # Errors
    ///
    /// There is nothing to look at yet.
    fn statistics(&self) -> Result<Statistics, Refusal>;

    /// Changes the container's limits.
    ///
    /// # Errors
    ///
    /// The kernel's reason; what was changed before stays.
    fn set_limits(&mut self, changes: &LimitChanges) -> Result<(), Refusal>;

    /// Kills every process. They are still to be reaped.
    fn kill(&mut self);

    /// Writes everything to the disks and lets go of them. Every process has been reaped.
    fn close(&mut self);
}

/// This machine.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    prepared: Option<PreparedMachine>,
}

#[derive(Debug)]
struct PreparedMachine {
    group: ContainerGroup,
    /// The container's first process.
    init: OwnedFd,
    /// To that process, until it becomes its program.
    waiting: Option<OwnedFd>,
    devpts: OwnedFd,
    seen: OwnedFd,
    layers: u32,
}

impl Machine {
    fn prepared(&self) -> Result<&PreparedMachine, Refusal> {
        self.prepared.as_ref().ok_or_else(|| refusal(ErrorCode::InvalidState, "the root is not prepared"))
    }
}

impl Sandbox for Machine {
    fn prepare(&mut self, request: &PrepareRoot) -> Result<Child, Refusal> {
        if self.prepared.is_some() {
            return Err(refusal(ErrorCode::InvalidState, "the root is prepared already"));
        }
        let prepared = root::prepare(request)?;
        let child = prepared.container.child;
        let init = child.pidfd.try_clone().step(|| "failed to keep the first process".to_owned())?;
        self.prepared = Some(PreparedMachine {
            group: prepared.group,
            init,
            waiting: Some(prepared.container.socket),
            devpts: prepared.container.devpts,
            seen: prepared.container.seen,
            layers: request.layers,
        });
        Ok(child)
    }

    fn start(&mut self, spec: &ProcessSpec) -> Result<Launched, Refusal> {
        let Some(machine) = &mut self.prepared else {
            return Err(refusal(ErrorCode::InvalidState, "the root is not prepared"));
        };
        let stdio = Stdio::new(spec, Some(machine.devpts.as_fd()))?;
        if spec.process != ProcessId::INIT {
            return machine.start_further(spec, stdio);
        }
        let waiting = machine.waiting.take();
        let socket = waiting.ok_or_else(|| {
            refusal(ErrorCode::InvalidState, "the container's own process was started already")
        })?;
        container::send_program(&socket, spec, &stdio.child)?;
        Ok(Launched { child: None, status: socket, streams: stdio.streams })
    }

    fn work_on_files(
        &mut self,
        work: &FilesWork,
        connection: BorrowedFd<'_>,
        early: &[u8],
    ) -> Result<Child, Refusal> {
        let machine = self.prepared()?;
        // What it mounts for its work is its own.
        let namespaces = match work {
            FilesWork::Changes => UnshareFlags::NEWNS,
            _ => UnshareFlags::empty(),
        };
        let forked = sys::process::fork(namespaces, None);
        match forked.step(|| "failed to start a worker".to_owned())? {
            Forked::Parent(child) => Ok(child),
            Forked::Child => machine.become_worker(work, connection, early),
        }
    }

    fn oom_killed(&self) -> bool {
        self.prepared.as_ref().is_some_and(|machine| machine.group.oom_killed())
    }

    fn processes(&self) -> Result<Processes, Refusal> {
        self.prepared()?;
        Ok(observe::processes())
    }

    fn statistics(&self) -> Result<Statistics, Refusal> {
        Ok(observe::statistics(&self.prepared()?.group))
    }

    fn set_limits(&mut self, changes: &LimitChanges) -> Result<(), Refusal> {
        Ok(self.prepared()?.group.change_limits(changes)?)
    }

    fn kill(&mut self) {
        if let Some(machine) = &self.prepared {
            // The end of a process namespace's first process is the end of all of them.
            let _ = pidfd_send_signal(&machine.init, Signal::KILL);
        }
    }

    fn close(&mut self) {
        rustix::fs::sync();
        // Its descriptors hold the root.
        if self.prepared.take().is_none() {
            return;
        }
        let released = unmount(overlay::ROOT, UnmountFlags::empty())
            .and_then(|()| unmount(overlay::WRITABLE, UnmountFlags::empty()));
        if let Err(error) = released {
            crate::log(&format!("the writable layer could not be unmounted: {error}"));
            let _ = mount_remount(overlay::WRITABLE, MountFlags::RDONLY, c"");
            rustix::fs::sync();
        }
    }
}

impl files::Trees for PreparedMachine {
    fn seen(&self) -> BorrowedFd<'_> {
        self.seen.as_fd()
    }

    fn bare(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(overlay::ROOT, flags, Mode::empty())?)
    }

    fn apart(&self) -> Result<(OwnedFd, OwnedFd), StepError> {
        overlay::apart(self.layers)
    }
}

impl PreparedMachine {
    /// For a fresh child: does the work, and ends.
    fn become_worker(&self, work: &FilesWork, connection: BorrowedFd<'_>, early: &[u8]) -> ! {
        crate::mark_as_child();
        launch::leave_agents_protection();
        rustix::process::umask(Mode::empty());
        // A connection of somebody else would not end while this holds it, too.
        sys::process::close_all_but(&[connection, self.seen.as_fd()]);
        if stdio::set_blocking(connection).is_ok()
            && let Ok(connection) = connection.try_clone_to_owned()
        {
            files::serve(work, self, connection, early);
        }
        sys::process::exit_now(0)
    }

    /// Forks into the container's process namespace; the child joins the others itself.
    fn start_further(&self, spec: &ProcessSpec, stdio: Stdio) -> Result<Launched, Refusal> {
        let failed = || "failed to start a process in the container".to_owned();
        if self.waiting.is_some() {
            return Err(refusal(ErrorCode::InvalidState, "the container is not running"));
        }
        let (status, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(failed)?;
        let own = pidfd_open(getpid(), PidfdFlags::empty()).step(failed)?;
        // Only children are affected by this, and only the next one is meant.
        move_into_thread_name_spaces(self.init.as_fd(), ThreadNameSpaceType::PROCESS_ID)
            .map_err(|_| refusal(ErrorCode::InvalidState, "the container is not running"))?;
        let child = match sys::process::fork(UnshareFlags::empty(), Some(self.group.folder().as_fd())) {
            Ok(Forked::Child) => {
                crate::mark_as_child();
                launch::join_and_become_program(self.init.as_fd(), spec, stdio.child, report)
            }
            Ok(Forked::Parent(child)) => Ok(child),
            Err(error) => Err(error),
        };
        move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID).step(failed)?;
        Ok(Launched { child: Some(child.step(failed)?), status, streams: stdio.streams })
    }
}
