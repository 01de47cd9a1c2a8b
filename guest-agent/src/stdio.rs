//! A process's stdio: made by the agent, one end for the process, the other for its streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use capsid_protocol::{ProcessSpec, StreamKind, TerminalSize};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{Step, StepError};
use crate::streams::{Input, Output, Streams};

/// The process's ends.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    /// A terminal is all three.
    Terminal(OwnedFd),
    /// Three pipes.
    Pipes {
        /// Read end.
        stdin: OwnedFd,
        /// Write end.
        stdout: OwnedFd,
        /// Write end.
        stderr: OwnedFd,
    },
    /// Two pipes, and nothing to read.
    NoStdin {
        /// Write end.
        stdout: OwnedFd,
        /// Write end.
        stderr: OwnedFd,
    },
}

impl ChildStdio {
    /// Tells the variants apart on the way to another process.
    pub(crate) fn tag(&self) -> u8 {
        match self {
            ChildStdio::Terminal(_) => b't',
            ChildStdio::Pipes { .. } => b'p',
            ChildStdio::NoStdin { .. } => b'n',
        }
    }

    /// The descriptors, in the order that [`ChildStdio::from_parts`] takes.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            ChildStdio::Terminal(terminal) => vec![terminal.as_fd()],
            ChildStdio::Pipes { stdin, stdout, stderr } => {
                vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
            }
            ChildStdio::NoStdin { stdout, stderr } => vec![stdout.as_fd(), stderr.as_fd()],
        }
    }

    /// Puts together what [`ChildStdio::tag`] and [`ChildStdio::descriptors`] took apart.
    pub(crate) fn from_parts(tag: u8, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        match tag {
            b't' => Some(ChildStdio::Terminal(next()?)),
            b'p' => Some(ChildStdio::Pipes { stdin: next()?, stdout: next()?, stderr: next()? }),
            b'n' => Some(ChildStdio::NoStdin { stdout: next()?, stderr: next()? }),
            _ => None,
        }
    }
}

/// Both ends of everything.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// The process's.
    pub(crate) child: ChildStdio,
    /// The agent's.
    pub(crate) streams: Streams,
}

impl Stdio {
    /// Makes the stdio that `spec` asks for. `devpts` is the root of the file system to make a terminal in.
    ///
    /// # Errors
    ///
    /// The agent is out of descriptors, or the container out of terminals.
    pub(crate) fn new(spec: &ProcessSpec, devpts: Option<BorrowedFd<'_>>) -> Result<Self, StepError> {
        match (spec.terminal, devpts) {
            (Some(size), Some(devpts)) => Self::terminal(devpts, size),
            _ => Self::pipes(spec.stdin),
        }
    }

    fn terminal(devpts: BorrowedFd<'_>, size: TerminalSize) -> Result<Self, StepError> {
        let failed = || "failed to make a terminal".to_owned();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ours = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty()).step(failed)?;
        rustix::pty::unlockpt(&ours).step(failed)?;
        set_size(ours.as_fd(), size).step(failed)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).step(failed)?;
        set_nonblocking(ours.as_fd()).step(failed)?;
        let far_end = theirs.try_clone().step(failed)?;
        let input = Input::terminal(ours.try_clone().step(failed)?);
        let output = Output::new(StreamKind::Terminal, ours, Some(far_end));
        let streams = Streams::new(vec![output], Some(input));
        Ok(Self { child: ChildStdio::Terminal(theirs), streams })
    }

    fn pipes(with_stdin: bool) -> Result<Self, StepError> {
        let failed = || "failed to make a pipe".to_owned();
        let pipe = || pipe_with(PipeFlags::CLOEXEC).step(failed);
        let output = |kind, end: OwnedFd| {
            set_nonblocking(end.as_fd()).step(failed)?;
            Ok(Output::new(kind, end, None))
        };
        let (our_stdout, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        let outputs = vec![output(StreamKind::Stdout, our_stdout)?, output(StreamKind::Stderr, our_stderr)?];
        if !with_stdin {
            let child = ChildStdio::NoStdin { stdout, stderr };
            return Ok(Self { child, streams: Streams::new(outputs, None) });
        }
        let (stdin, our_stdin) = pipe()?;
        set_nonblocking(our_stdin.as_fd()).step(failed)?;
        let streams = Streams::new(outputs, Some(Input::stdin(our_stdin)));
        Ok(Self { child: ChildStdio::Pipes { stdin, stdout, stderr }, streams })
    }
}

/// Makes a descriptor return instead of waiting. The other end of a pipe or terminal is not touched.
pub(crate) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)
}

/// Makes a descriptor wait instead of returning.
pub(crate) fn set_blocking(descriptor: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags & !OFlags::NONBLOCK)
}

/// Sets a terminal's size; its foreground processes get SIGWINCH if it changed.
pub(crate) fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) -> rustix::io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}
