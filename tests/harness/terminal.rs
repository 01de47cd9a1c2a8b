//! A call of `capsid` at a terminal: a pseudo-terminal that the test types into and reads from.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};

/// After this a call hangs.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A call whose three streams are a terminal.
#[derive(Debug)]
pub struct TerminalCall {
    child: Child,
    controller: File,
    pieces: mpsc::Receiver<Vec<u8>>,
    screen: String,
}

impl TerminalCall {
    /// Starts `command` at a new terminal of that size.
    ///
    /// # Panics
    ///
    /// When there is no terminal to be had, or the command does not start.
    #[must_use]
    pub fn start(command: Command, rows: u16, columns: u16) -> TerminalCall {
        let pair = openpty(None, None).expect("a terminal");
        tcsetwinsize(&pair.slave, winsize(rows, columns)).expect("a terminal's size");
        // `setsid --ctty` makes it the controlling terminal, so that a change of its size is signalled.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let side = |side: &OwnedFd| Stdio::from(side.try_clone().expect("a descriptor"));
        let child =
            session.stdin(side(&pair.slave)).stdout(side(&pair.slave)).stderr(side(&pair.slave)).spawn();
        let controller = File::from(pair.master);
        let (sender, pieces) = mpsc::channel();
        let mut reader = controller.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let mut block = vec![0; 4096];
            // At the end of its last user a terminal gives an error.
            while let Ok(count @ 1..) = reader.read(&mut block) {
                if sender.send(block[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        TerminalCall { child: child.expect("setsid"), controller, pieces, screen: String::new() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process's number"))
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.controller.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Changes the terminal's size.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        tcsetwinsize(&self.controller, winsize(rows, columns)).expect("a terminal's size");
    }

    /// Waits until the screen has shown `text` since the last such wait.
    ///
    /// # Panics
    ///
    /// When time runs out or the terminal ends before.
    pub fn await_screen(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.screen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.screen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("no {text:?} on the screen:\n{}", self.screen),
            }
        }
        let end = self.screen.find(text).unwrap_or(0) + text.len();
        self.screen.drain(..end);
    }

    /// Takes the terminal away, as closing its window does; then as [`Self::finish`].
    ///
    /// # Panics
    ///
    /// When the call does not end in time.
    pub fn hang_up(self) -> i32 {
        // The thread that reads holds the controlling side, too: the signal is given instead of the closing. setsid
        // becomes capsid, since it leads no process group.
        kill(self.pid(), Signal::SIGHUP).expect("a signal");
        self.finish()
    }

    /// Waits for the end, and gives the exit code.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub fn finish(mut self) -> i32 {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().unwrap_or(-1);
            }
            self.screen
                .extend(self.pieces.try_iter().map(|piece| String::from_utf8_lossy(&piece).into_owned()));
            assert!(Instant::now() < deadline, "no end within {TIMEOUT:?}; the screen:\n{}", self.screen);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A test that failed leaves no machine behind.
impl Drop for TerminalCall {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn winsize(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
