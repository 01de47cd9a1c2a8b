//! One call of `capsid`: bounded in time, with everything it printed at hand.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Host;

/// After this a call hangs. Generous: an emulated guest on a busy machine takes seconds to boot.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A call that is being put together.
#[derive(Debug)]
pub struct Call {
    command: Command,
    stdin: Option<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(host: &Host) -> Call {
        let mut command = Command::new(host.capsid());
        for variable in ["CAPSID_ENGINE", "CAPSID_HOST", "DOCKER_HOST"] {
            command.env_remove(variable);
        }
        Call { command, stdin: None }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Call {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Call {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the call's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Call {
        self.command.env(name, value);
        self
    }

    /// Gives standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Call {
        self.stdin = Some(bytes.into());
        self
    }

    /// The command itself, for what a call cannot do.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// When it does not start, or not end in time.
    #[must_use]
    pub fn finish(self) -> Finished {
        self.start().finish()
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(mut self) -> Running {
        let description = format!("{:?}", self.command);
        let input = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{description}: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A container that does not read its input is no failure of the call.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        Running { child, stdout, stderr, description }
    }
}

/// What a stream has given so far, in pieces.
type Pieces = mpsc::Receiver<Vec<u8>>;

fn collect(mut stream: impl Read + Send + 'static) -> Pieces {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut block = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut block) {
            if sender.send(block[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A call under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Pieces,
    stderr: Pieces,
    description: String,
}

impl Running {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process's number")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a signal");
    }

    /// Waits until standard output has held `text`; what was read is dropped.
    ///
    /// # Panics
    ///
    /// When the output ends before, or time runs out.
    pub fn await_output(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(piece) => seen.extend(piece),
                Err(_) => panic!(
                    "{}: no {text:?} came; stdout: {:?}; stderr: {:?}",
                    self.description,
                    String::from_utf8_lossy(&seen),
                    String::from_utf8_lossy(&self.stderr.try_iter().flatten().collect::<Vec<_>>()),
                ),
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break Some(status);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let stdout: Vec<u8> = self.stdout.iter().flatten().collect();
        let stderr: Vec<u8> = self.stderr.iter().flatten().collect();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let description = std::mem::take(&mut self.description);
        let finished = |status| Finished { status, stdout, stderr, description };
        match status {
            Some(status) => finished(status),
            None => panic!("no end within {TIMEOUT:?}: {}", finished(ExitStatus::default()).story()),
        }
    }
}

/// A test that failed leaves no machine behind.
impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A call that ended.
#[derive(Debug)]
pub struct Finished {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
    description: String,
}

impl Finished {
    /// Everything about it, for a failure.
    #[must_use]
    pub fn story(&self) -> String {
        let mut story = format!("{}\n{}\n", self.description, self.status);
        let shown = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4000)]);
        let _ =
            writeln!(story, "--- stdout ({} bytes)\n{shown}\n--- stderr\n{}", self.stdout.len(), self.stderr);
        story
    }

    /// Checks the exit code.
    ///
    /// # Panics
    ///
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.status.code(), Some(code), "exit code of {}", self.story());
        self
    }

    /// Checks standard output, to the byte.
    ///
    /// # Panics
    ///
    /// When it is something else.
    pub fn expect_stdout(self, text: &str) -> Finished {
        assert_eq!(self.stdout_text(), text, "stdout of {}", self.story());
        self
    }

    /// Checks that standard error holds `text`.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn expect_stderr(self, text: &str) -> Finished {
        assert!(self.stderr.contains(text), "no {text:?} in stderr of {}", self.story());
        self
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(&self) -> &[u8] {
        &self.stdout
    }

    /// Standard output as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.stderr
    }
}
