//! The machine that the tests run on: where the programs are, and which engine is tested.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::{Call, Home};

/// Names the engine that the tests use: `kvm` or `emulated`.
const ENGINE_VARIABLE: &str = "CAPSID_TEST_ENGINE";
/// What is shared by all tests lives as long as their process, and nothing of the process's own runs at its end: this
/// waits for it, and ends the daemon, its machines, and their folder. Twice, since a daemon may start a machine
/// meanwhile.
const CLEANER: &str = r#"read -r _
for turn in 1 2; do
    for process in /proc/[0-9]*; do
        if grep -zqxF "CAPSID_STATE_DIR=$1/state" "$process/environ" 2>/dev/null ||
            ls -l "$process/fd" 2>/dev/null | grep -qF "$1/state/"; then
            kill -9 "${process#/proc/}"
        fi
    done
done
rm -rf -- "$1""#;

/// The programs, the engine, and a store of images that is gone with the process.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    engine: String,
    home: Home,
    /// Ends when this process does, since it holds the other end of its input.
    _cleaner: Child,
}

static HOST: OnceLock<Host> = OnceLock::new();

/// The one host of this process, with the `busybox` image loaded.
///
/// # Panics
///
/// When something is missing that `make build` and `make images` make.
pub fn host() -> &'static Host {
    HOST.get_or_init(|| {
        let host = Host::new();
        host.load("busybox");
        host
    })
}

impl Host {
    fn new() -> Host {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace's folder");
        let engine = env::var(ENGINE_VARIABLE).unwrap_or_else(|_| "emulated".to_owned());
        assert!(matches!(engine.as_str(), "kvm" | "emulated"), "{ENGINE_VARIABLE}={engine} is no engine");
        let home = Home::new();
        let cleaner =
            Command::new("sh").args(["-c", CLEANER, "sh"]).arg(home.folder()).stdin(Stdio::piped()).spawn();
        let host = Host { root, engine, home, _cleaner: cleaner.expect("sh") };
        for program in [host.capsid(), host.daemon(), host.monitor()] {
            assert!(program.is_file(), "{} is missing: run 'make build'", program.display());
        }
        host
    }

    fn load(&self, image: &str) {
        let archive = self.archive(image);
        self.call().args(["load", "-i"]).arg(&archive).finish().expect_code(0);
    }

    /// Loads the `python` image, once.
    pub fn load_python(&self) {
        static LOADED: OnceLock<()> = OnceLock::new();
        LOADED.get_or_init(|| self.load("python"));
    }

    /// Loads the `debian` image, once.
    pub fn load_debian(&self) {
        static LOADED: OnceLock<()> = OnceLock::new();
        LOADED.get_or_init(|| self.load("debian"));
    }

    /// The archive of one of the images of `make images`.
    #[must_use]
    pub fn archive(&self, image: &str) -> PathBuf {
        let path = self.root.join("images/out").join(format!("{image}.tar"));
        assert!(path.is_file(), "{} is missing: run 'make images'", path.display());
        path
    }

    /// The program `capsid`.
    #[must_use]
    pub fn capsid(&self) -> PathBuf {
        self.root.join("target/release/capsid")
    }

    /// The program `capsidd`.
    #[must_use]
    pub fn daemon(&self) -> PathBuf {
        self.root.join("target/release/capsidd")
    }

    /// The program `capsid-vmm`.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.root.join("target/release/capsid-vmm")
    }

    /// The folder of the guest's artifacts.
    #[must_use]
    pub fn guest_folder(&self) -> PathBuf {
        self.root.join("target/guest")
    }

    /// The engine that is tested.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The state folder that the tests share.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home.state()
    }

    /// A folder for machines that are no daemon's, and that none may therefore end.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn machines(&self) -> PathBuf {
        let folder = self.home.folder().join("machines");
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// A call of `capsid`, with the shared state.
    #[must_use]
    pub fn call(&self) -> Call {
        self.home.call(self)
    }

    /// `capsid run --rm --engine … OPTIONS… busybox sh -c SCRIPT`.
    #[must_use]
    pub fn shell(&self, options: &[&str], script: &str) -> Call {
        self.run(options, &["busybox", "sh", "-c", script])
    }

    /// [`Host::shell`] in a state folder of its own.
    #[must_use]
    pub fn shell_in(&self, home: &Home, options: &[&str], script: &str) -> Call {
        self.run_in(home, options, &["busybox", "sh", "-c", script])
    }

    /// `capsid run --rm --engine … OPTIONS… IMAGE COMMAND…`.
    #[must_use]
    pub fn run(&self, options: &[&str], image_and_command: &[&str]) -> Call {
        self.run_in(&self.home, options, image_and_command)
    }

    /// The same in a state folder of its own.
    #[must_use]
    pub fn run_in(&self, home: &Home, options: &[&str], image_and_command: &[&str]) -> Call {
        home.call(self).args(["run", "--rm", "--engine", &self.engine]).args(options).args(image_and_command)
    }

    /// What a template makes of a container.
    ///
    /// # Panics
    ///
    /// When there is no such container.
    #[must_use]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let said = self.call().args(["inspect", "--type", "container", "-f", template, container]).finish();
        said.expect_code(0).stdout_text().trim().to_owned()
    }

    /// A folder of guest artifacts of which one is replaced by `replacement`.
    #[must_use]
    pub fn guest_folder_with(&self, name: &str, replacement: &Path) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for artifact in ["vmlinux", "initramfs.cpio", "writable.ext4"] {
            let target =
                if artifact == name { replacement.to_owned() } else { self.guest_folder().join(artifact) };
            std::os::unix::fs::symlink(target, folder.path().join(artifact)).expect("a link");
        }
        folder
    }
}
