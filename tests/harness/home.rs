//! A state folder, and the daemon that calls of `capsid` start for it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Call, Host, processes_in};

/// Names the state folder, in the environment of everything that works in it.
const STATE_VARIABLE: &str = "CAPSID_STATE_DIR";
/// How long a daemon may take to end that is asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A state folder of its own. Its daemon, its machines and its sockets are gone with it.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    environment: Vec<(String, OsString)>,
}

impl Home {
    /// An empty one.
    ///
    /// # Panics
    ///
    /// When there is no temporary folder to be had.
    #[must_use]
    pub fn new() -> Home {
        let folder = tempfile::Builder::new().prefix("capsid-test.").tempdir().expect("a temporary folder");
        for name in ["state", "run"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        Home { folder, environment: Vec::new() }
    }

    /// Sets a variable for every call in it, and so for its daemon.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Home {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// With the image `busybox` in it.
    #[must_use]
    pub fn with_busybox(self, host: &Host) -> Home {
        self.with_image(host, "busybox")
    }

    /// With the image `python` in it.
    #[must_use]
    pub fn with_python(self, host: &Host) -> Home {
        self.with_image(host, "python")
    }

    fn with_image(self, host: &Host, image: &str) -> Home {
        self.call(host).args(["load", "-i"]).arg(host.archive(image)).finish().expect_code(0);
        self
    }

    /// A call of `capsid` in it.
    #[must_use]
    pub fn call(&self, host: &Host) -> Call {
        let call = Call::new(host).env(STATE_VARIABLE, self.state());
        let call = call.env("XDG_RUNTIME_DIR", self.run()).env("CAPSID_RUNTIME_DIR", self.run());
        self.environment.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// Its folder, in which are those of state and sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The daemons that work in it.
    #[must_use]
    pub fn daemons(&self) -> Vec<i32> {
        let is_daemon = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "capsidd"
        };
        self.processes().into_iter().filter(is_daemon).collect()
    }

    fn processes(&self) -> Vec<i32> {
        processes_in(&self.state())
    }

    /// Ends its daemon, as one ends that has nothing to do; then whatever is left of it.
    pub fn stop(&self) {
        let send = |pids: Vec<i32>, signal| {
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        };
        send(self.daemons(), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while !self.daemons().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        while !self.processes().is_empty() && Instant::now() < deadline + PATIENCE {
            send(self.processes(), Signal::SIGKILL);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What its daemon wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.state().join("daemon.log")).unwrap_or_default()
    }
}

impl Default for Home {
    fn default() -> Home {
        Home::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}
