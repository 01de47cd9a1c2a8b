//! A daemon of a test's own, which the test may kill and start again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use capsid_api::client::{Client, Endpoint, RequestBody};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Host, host};

/// How long a daemon may take to listen, or to end when it cannot serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with a state folder of its own, in which the image `busybox` is.
#[derive(Debug)]
pub struct Daemon {
    folder: TempDir,
    child: Child,
}

/// How a daemon ended that could not serve.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote.
    pub complaint: String,
}

impl Daemon {
    /// Starts a daemon, and loads the image over its API.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub async fn start() -> Daemon {
        let folder = tempfile::Builder::new().prefix("capsid-d.").tempdir().expect("a temporary folder");
        let child = spawn(host(), folder.path(), "d.sock");
        let daemon = Daemon { folder, child };
        daemon.await_socket();
        let archive = fs::read(host().archive("busybox")).expect("the image's archive");
        let client = daemon.client();
        let load = client.post("/images/load").body("application/x-tar", RequestBody::Whole(archive.into()));
        let answer = load.send().await.expect("an answer").bytes().await.expect("its body");
        assert!(String::from_utf8_lossy(&answer).contains("Loaded image"), "{answer:?}");
        daemon
    }

    /// Kills the daemon as nothing can be kept from being killed, and starts another.
    ///
    /// # Panics
    ///
    /// When the other does not come up.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the daemon. Its machines go on.
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
    }

    /// Starts a daemon where one was killed.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.child = spawn(host(), self.folder.path(), "d.sock");
        self.await_socket();
    }

    /// Starts another daemon on the same state folder, which must not be able to serve.
    ///
    /// # Panics
    ///
    /// When it serves.
    #[must_use]
    pub fn start_another(&self) -> Refusal {
        let mut child = spawn(host(), self.folder.path(), "other.sock");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return Refusal { status, complaint: self.log() };
            }
            assert!(Instant::now() < deadline, "the other daemon serves: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.folder.path().join("d.sock")))
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    /// Where its state, its sockets and its log are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The monitors of the containers whose records name one.
    #[must_use]
    pub fn monitors(&self) -> Vec<i32> {
        let containers = fs::read_dir(self.state().join("containers")).into_iter().flatten().flatten();
        let records = containers.filter_map(|folder| fs::read(folder.path().join("container.json")).ok());
        let documents =
            records.filter_map(|record| serde_json::from_slice::<serde_json::Value>(&record).ok());
        documents
            .filter_map(|record| record["state"]["machine"]["pid"].as_i64())
            .filter_map(|pid| i32::try_from(pid).ok())
            .collect()
    }

    /// Everything that its daemons wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn await_socket(&self) {
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.folder.path().join("d.sock")).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Nothing of a test is left, whichever way it ended; a failed one tells what its daemon said.
impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for monitor in self.monitors() {
            let _ = kill(Pid::from_raw(monitor), Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

fn spawn(host: &Host, folder: &Path, socket: &str) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(host.daemon());
    command
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--host")
        .arg(format!("unix://{}", folder.join(socket).display()))
        .args(["--engine", host.engine()])
        .env("CAPSID_RUNTIME_DIR", folder.join("run"))
        .env_remove("CAPSID_HOST")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().expect("capsidd")
}
