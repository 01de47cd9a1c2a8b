//! The emulator's process: started so that it cannot outlive us, and watched by descriptor.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

/// How much of what the emulator says about itself is kept, the first of it: that is where the reason is.
const MAX_STDERR_BYTES: u64 = 4096;

/// A started emulator. Dropping it kills it.
pub(super) struct Process {
    child: Child,
    /// Readable when it has ended.
    ended: OwnedFd,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts `command` with these descriptors open under their own numbers, nothing to read, and its output and
    /// error streams led to us. It is killed when the calling thread ends, however that comes about; the calling thread
    /// is the process' main one.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub(super) fn start(
        mut command: Command,
        inherited: &[BorrowedFd<'_>],
    ) -> io::Result<(Process, ChildStdout)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bind_to_us(&mut command, inherited.iter().map(AsRawFd::as_raw_fd).collect());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().map(|stream| {
            std::thread::Builder::new().name("emulator-errors".into()).spawn(move || read_errors(stream))
        });
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let ended = rustix::process::pidfd_open(pid(&child), PidfdFlags::empty())?;
        Ok((Process { child, ended, stderr: stderr.transpose()? }, stdout))
    }

    /// Becomes readable when it has ended.
    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Holds every thread of it. They are held when this returns, unless it has ended.
    pub(super) fn hold(&self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match rustix::process::waitid(WaitId::Pid(pid(&self.child)), options) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(|_| ())?),
            }
        }
    }

    /// Lets it go on.
    pub(super) fn release(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Ends it, and returns when none of its threads runs any more.
    pub(super) fn kill(&mut self) {
        // It fails only on a process that has ended, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, and what it said about that. Waits for its end.
    pub(super) fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok((status, said))
    }

    /// By descriptor, so that no other process can be meant.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.ended, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid(child: &Child) -> Pid {
    // A process that std has started and not yet waited for has a positive number.
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap_or(Pid::INIT)
}

/// Keeps the beginning and discards the rest, so that the emulator never waits for us.
fn read_errors(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = stream.by_ref().take(MAX_STDERR_BYTES).read_to_end(&mut kept);
    let _ = io::copy(&mut stream, &mut io::sink());
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Lets the child inherit descriptors and has the kernel kill it when we end.
#[allow(unsafe_code)]
fn bind_to_us(command: &mut Command, inherited: Vec<RawFd>) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have ended before that took hold; then nobody would tell the child.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for &descriptor in &inherited {
            // SAFETY: the caller of `start` holds these open until the child is started.
            let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls: it takes no lock and allocates nothing, and
    // its errors are plain numbers.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_process_stands_still_and_goes_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do echo x; done"]);
        let (mut process, mut stdout) = Process::start(command, &[]).expect("started");
        process.hold().expect("held");
        process.hold().expect("held twice");
        let state = std::fs::read_to_string(format!("/proc/{}/stat", process.child.id())).expect("a state");
        assert!(state.contains(") T "), "{state}");
        process.release().expect("released");
        stdout.read_exact(&mut [0; 200_000]).expect("it goes on");
        process.kill();
        assert!(!process.end().expect("ended").0.success());
    }

    #[test]
    fn what_it_says_is_kept_up_to_a_limit() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; head -c 1000000 /dev/zero >&2; exit 3"]);
        let (mut process, _stdout) = Process::start(command, &[]).expect("started");
        let (status, said) = process.end().expect("ended");
        assert_eq!(status.code(), Some(3));
        assert!(said.starts_with("the reason") && said.len() <= 4096);
    }

    #[test]
    fn descriptors_are_inherited_under_their_numbers() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo hello >/proc/self/fd/{}", writer.as_raw_fd())]);
        let (mut process, _stdout) = Process::start(command, &[writer.as_fd()]).expect("started");
        drop(writer);
        assert_eq!(io::read_to_string(reader).expect("read"), "hello\n");
        assert!(process.end().expect("ended").0.success());
    }
}
