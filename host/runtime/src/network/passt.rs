//! The process of passt (passt(1)), which lives exactly as long as the machine that it serves.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{
    GATEWAY_IPV4, GATEWAY_IPV6, GUEST_IPV4, GUEST_IPV6, MTU, NetworkError, PREFIX_IPV4, RESOLVER_IPV4, host,
};
use crate::monitor::pidfd;

/// The program, from Debian's package of the same name.
const PROGRAM: &str = "passt";
/// The wire's number in passt's process.
const WIRE: i32 = 3;
/// The card's address at passt's end of the wire. Left to itself, passt shows the guest that of the host's card.
const GATEWAY_MAC: &str = "02:63:61:70:73:64";
/// An interface that every host has. With the guest's addresses given, passt asks no more of it than to be there, and
/// works on a host that is on no network yet.
const ANY_INTERFACE: &str = "lo";
/// How much of what passt says is kept: the first bytes, where it says why it does not start.
const COMPLAINT_BYTES: u64 = 4 << 10;
/// How long passt may take to be ready; it takes some hundredths of a second.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked at until then.
const READY_PAUSE: Duration = Duration::from_millis(5);
/// Stack of the thread that waits for its end.
const WATCHER_STACK_BYTES: usize = 64 << 10;
/// Of the fields of /proc/PID/stat behind the program's name, the one that says when the process started (proc(5)).
const START_TIME_FIELD: usize = 19;

/// The program's path, if it is installed.
#[must_use]
pub fn find_passt() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}

/// A process, told apart from every other that had or will have its number since the host's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since the host did.
    pub started: u64,
}

/// What passt is to do beyond what it always does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PasstArguments {
    /// The interface by which the host has IPv6, if it has.
    pub(super) ipv6_uplink: Option<String>,
    /// Whether [`RESOLVER_IPV4`] leads to the first IPv4 server of the host's /etc/resolv.conf.
    pub(super) forwards_dns: bool,
}

impl PasstArguments {
    fn list(&self) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
        add(&["--foreground", "--quiet", "--fd", &WIRE.to_string()]);
        // The gateway is not the host's loopback, and no port of the host's leads to the guest.
        add(&["--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none"]);
        // The agent sets the card up.
        add(&["--no-dhcp", "--no-dhcpv6", "--no-ra", "--search", "none", "--mtu", &MTU.to_string()]);
        add(&[
            "--mac-addr",
            GATEWAY_MAC,
            "--interface",
            self.ipv6_uplink.as_deref().unwrap_or(ANY_INTERFACE),
        ]);
        add(&["--address", &GUEST_IPV4.to_string(), "--netmask", &PREFIX_IPV4.to_string()]);
        add(&["--gateway", &GATEWAY_IPV4.to_string()]);
        match self.ipv6_uplink {
            Some(_) => add(&["--address", &GUEST_IPV6.to_string(), "--gateway", &GATEWAY_IPV6.to_string()]),
            None => add(&["--ipv4-only"]),
        }
        if self.forwards_dns {
            add(&["--dns-forward", &RESOLVER_IPV4.to_string()]);
        } else {
            add(&["--dns", "none"]);
        }
        list
    }
}

/// A running passt. Dropping it changes nothing: it ends with the machine.
#[derive(Debug)]
pub struct Passt {
    identity: ProcessIdentity,
    process: OwnedFd,
    ended: watch::Receiver<bool>,
    /// What it wrote on its stderr; of one that was taken over that is out of reach.
    complaint: Option<File>,
}

impl Passt {
    /// Starts it with its end of the wire. It gets no environment, no terminal and no other descriptor.
    pub(super) fn start(
        program: &Path,
        wire: OwnedFd,
        arguments: &PasstArguments,
    ) -> Result<Passt, NetworkError> {
        let complaint = bounded_file().map_err(host("make room for what passt says"))?;
        let stderr = complaint.try_clone().map_err(host("make room for what passt says"))?;
        let mut command = Command::new(program);
        command.args(arguments.list()).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // A terminal's interrupt is not for it.
        command.process_group(0);
        let mappings = vec![FdMapping { parent_fd: wire, child_fd: WIRE }];
        command
            .fd_mappings(mappings)
            .map_err(|_| host("hand passt its socket")(io::ErrorKind::InvalidInput.into()))?;
        let child = command.spawn().map_err(host("start passt"))?;
        let pid = child.id();
        // Should one of these fail, the wire's end ends it: the machine does not start then.
        let process = pidfd(pid).map_err(host("watch passt"))?;
        let started = start_time(pid).map_err(host("watch passt"))?;
        let ended = watch_end(Some(child), &process).map_err(host("watch passt"))?;
        Ok(Passt { identity: ProcessIdentity { pid, started }, process, ended, complaint: Some(complaint) })
    }

    /// Takes over one that another process started, if it lives.
    pub(super) fn adopt(identity: ProcessIdentity) -> Option<Passt> {
        // The process first: if the time is right after that, the number was its.
        let process = pidfd(identity.pid).ok()?;
        if start_time(identity.pid).ok()? != identity.started {
            return None;
        }
        let ended = watch_end(None, &process).ok()?;
        Some(Passt { identity, process, ended, complaint: None })
    }

    /// Which process it is.
    #[must_use]
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Waits until it has confined itself.
    pub(crate) async fn confined(&self) -> Result<(), NetworkError> {
        let confined = async {
            while !is_confined(self.identity.pid) {
                if *self.ended.borrow() {
                    return Err(NetworkError::Ended(self.complaint()));
                }
                sleep(READY_PAUSE).await;
            }
            Ok(())
        };
        timeout(READY_TIMEOUT, confined).await.unwrap_or(Err(NetworkError::NotConfined))
    }

    /// Waits for its end, however long it takes.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut ended = self.ended.clone();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Ends it by force, if it has not ended.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// What it said, in one line.
    fn complaint(&self) -> String {
        let mut text = Vec::new();
        if let Some(mut file) = self.complaint.as_ref().and_then(|file| file.try_clone().ok()) {
            let _ = file.rewind().and_then(|()| file.take(COMPLAINT_BYTES).read_to_end(&mut text));
        }
        let text = String::from_utf8_lossy(&text).replace('\0', "");
        // It says of every line that there is no system log, where there is none.
        let is_noise = |line: &str| line.starts_with("Failed to send") && line.ends_with("syslog");
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_noise(line));
        let said: Vec<&str> = lines.collect();
        if said.is_empty() { "it does not say why".to_owned() } else { said.join("; ") }
    }
}

/// A file in memory that holds so much and no more: what passt has to say of a guest must not fill anything.
fn bounded_file() -> io::Result<File> {
    let file = File::from(memfd_create("passt", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(COMPLAINT_BYTES)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// The filter of system calls is the last thing that it puts on.
fn is_confined(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, but what follows the last parenthesis is numbers.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(START_TIME_FIELD));
    field.and_then(|ticks| ticks.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// As for the monitor: a thread that waits, and reaps a child of ours.
fn watch_end(child: Option<Child>, process: &OwnedFd) -> io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let process = process.try_clone()?;
    let watcher = std::thread::Builder::new().name("passt-end".to_owned()).stack_size(WATCHER_STACK_BYTES);
    watcher.spawn(move || {
        let mut polled = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut polled, None) == Err(Errno::INTR) {}
        if let Some(mut child) = child {
            let _ = child.wait();
        }
        sender.send_replace(true);
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(uplink: Option<&str>, forwards_dns: bool) -> String {
        let ipv6_uplink = uplink.map(str::to_owned);
        PasstArguments { ipv6_uplink, forwards_dns }.list().join(" ")
    }

    #[test]
    fn passt_is_told_to_keep_the_hosts_loopback_and_ports_to_itself() {
        for arguments in [list(None, false), list(Some("eth0"), true)] {
            for needed in ["--no-map-gw", "--tcp-ports none", "--udp-ports none", "--foreground"] {
                assert!(arguments.contains(needed), "{needed} in {arguments}");
            }
        }
    }

    #[test]
    fn ipv6_and_the_hosts_resolver_are_had_when_they_are_there() {
        let least = list(None, false);
        assert!(least.contains("--interface lo") && least.contains("--ipv4-only"), "{least}");
        assert!(least.ends_with("--dns none"), "{least}");
        let most = list(Some("wan0"), true);
        assert!(most.contains("--interface wan0") && most.contains("--address fd63:"), "{most}");
        assert!(most.ends_with("--dns-forward 10.87.0.3") && !most.contains("--ipv4-only"), "{most}");
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        assert!(Passt::adopt(ProcessIdentity { pid, started }).is_some());
        assert!(Passt::adopt(ProcessIdentity { pid, started: started + 1 }).is_none());
    }

    #[tokio::test]
    async fn what_passt_says_is_bounded_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("passt");
        std::fs::write(&program, "#!/bin/sh\necho the reason >&2\nhead -c 100000 /dev/zero >&2\nexit 1\n")
            .unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let arguments = PasstArguments { ipv6_uplink: None, forwards_dns: false };
        let passt = Passt::start(&program, theirs.into(), &arguments).unwrap();
        let ended = passt.confined().await.unwrap_err();
        assert!(ended.to_string().contains("ended: the reason"), "{ended}");
    }
}
