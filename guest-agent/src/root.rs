//! `PrepareRoot`: from an empty machine to a container that waits for its program.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use capsid_protocol::{ErrorCode, PrepareRoot, Refusal};
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec};

use crate::cgroup::ContainerGroup;
use crate::container::{self, Container};
use crate::error::{Step, StepError, refusal};
use crate::{boot, mounts, network, overlay};

/// Most tmpfs mounts and host lines of one request: no cap of Docker's, only a bound.
const MAX_ENTRIES: usize = 1024;
/// The kernel's limit of a host name (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// What [`prepare`] leaves behind.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The container's first process, waiting.
    pub(crate) container: Container,
    /// Its control group.
    pub(crate) group: ContainerGroup,
}

/// Mounts the root, and starts the container's first process in namespaces of its own, where it waits.
///
/// # Errors
///
/// What makes no sense, or the step that the kernel refused. The machine is of no further use after the latter.
pub(crate) fn prepare(request: &PrepareRoot) -> Result<Prepared, Refusal> {
    check(request)?;
    set_clock(request.realtime_ns)?;
    overlay::stack(request.layers, request.writable, request.resolv_conf.is_some())?;
    write_files(request)?;
    if let Some(setup) = &request.network {
        network::set_up(setup)?;
    }
    let group = ContainerGroup::create(&request.limits)?;
    let container = container::start(request, &group)?;
    Ok(Prepared { container, group })
}

fn check(request: &PrepareRoot) -> Result<(), Refusal> {
    let bad = |message: String| Err(refusal(ErrorCode::InvalidArgument, message));
    if request.layers > overlay::MAX_LAYERS {
        return bad(format!("{} layers are more than {}", request.layers, overlay::MAX_LAYERS));
    }
    if request.tmpfs.len() > MAX_ENTRIES
        || request.extra_hosts.len() > MAX_ENTRIES
        || request.sysctls.len() > MAX_ENTRIES
    {
        return bad(format!("more than {MAX_ENTRIES} tmpfs mounts, hosts or sysctls"));
    }
    if request.hostname.len() > MAX_HOSTNAME {
        return bad(format!("the host name is longer than {MAX_HOSTNAME} bytes"));
    }
    if let Some(setup) = &request.network {
        network::check(setup)?;
    }
    if request.folders.len() > MAX_ENTRIES {
        return bad(format!("more than {MAX_ENTRIES} folders"));
    }
    if let Some((name, _)) = request.sysctls.iter().find(|(name, _)| parameter_path(name).is_none()) {
        return bad(format!("there is no sysctl {name:?}"));
    }
    let paths = request.tmpfs.iter().map(|tmpfs| &tmpfs.path).chain(&request.folders);
    match paths.into_iter().find(|path| !mounts::is_plain_absolute(path)) {
        Some(path) => bad(format!("the path {path:?} of a mount is not absolute and plain")),
        None => Ok(()),
    }
}

/// Where a parameter of the kernel is, below /proc/sys.
pub(crate) fn parameter_path(name: &str) -> Option<String> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let is_plain = path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    is_plain.then_some(path)
}

fn set_clock(realtime_ns: Option<u64>) -> Result<(), StepError> {
    let Some(realtime_ns) = realtime_ns else { return Ok(()) };
    let time = Timespec {
        tv_sec: i64::try_from(realtime_ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(realtime_ns % 1_000_000_000).unwrap_or(0),
    };
    rustix::time::clock_settime(ClockId::Realtime, time).step(|| "failed to set the clock".to_owned())
}

/// The files that are mounted over the container's, in the agent's root.
fn write_files(request: &PrepareRoot) -> Result<(), StepError> {
    write_file("hostname", &format!("{}\n", request.hostname))?;
    write_file("hosts", &hosts(&request.hostname, &request.extra_hosts, &own_addresses(request)))?;
    match &request.resolv_conf {
        Some(text) => write_file("resolv.conf", text),
        None => Ok(()),
    }
}

fn write_file(name: &str, text: &str) -> Result<(), StepError> {
    let path = format!("{}/{name}", boot::FILES);
    let failed = || format!("failed to write {path}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::open(path.as_str(), flags, Mode::from_raw_mode(0o644)).step(failed)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).step(failed)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// Those that the machine's name is at: of its card, or one of its own, as Debian has it.
fn own_addresses(request: &PrepareRoot) -> Vec<IpAddr> {
    let of_card = request.network.iter().flat_map(|setup| &setup.addresses).map(|each| each.address);
    let addresses: Vec<_> = of_card.collect();
    if addresses.is_empty() { vec![IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))] } else { addresses }
}

/// /etc/hosts as Docker writes it: the machine's own name comes last, unless the host gives it an address.
fn hosts(hostname: &str, extra: &[(String, String)], own: &[IpAddr]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    for (address, name) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    let is_given = |(_, names): &(String, String)| names.split_whitespace().any(|name| name == hostname);
    if !hostname.is_empty() && !extra.iter().any(is_given) {
        for address in own {
            text.push_str(&format!("{address}\t{hostname}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use capsid_protocol::{Limits, TmpfsMount, WritableLayer};

    use super::*;

    fn request() -> PrepareRoot {
        PrepareRoot {
            layers: 1,
            writable: WritableLayer::Memory { bytes: 1 << 20 },
            read_only: false,
            tmpfs: Vec::new(),
            shm_bytes: 1 << 20,
            hostname: "box".to_owned(),
            extra_hosts: Vec::new(),
            resolv_conf: None,
            network: None,
            limits: Limits::default(),
            privileged: false,
            realtime_ns: None,
            folders: Vec::new(),
            sysctls: Vec::new(),
        }
    }

    #[test]
    fn requests_without_sense_are_refused_before_anything_is_mounted() {
        assert_eq!(check(&request()), Ok(()));
        let tmpfs = |path: &str| vec![TmpfsMount { path: path.to_owned(), options: String::new() }];
        let bad = [
            PrepareRoot { layers: 1000, ..request() },
            PrepareRoot { hostname: "x".repeat(65), ..request() },
            PrepareRoot { tmpfs: tmpfs("run"), ..request() },
            PrepareRoot { sysctls: vec![("kernel/../x".to_owned(), "1".to_owned())], ..request() },
            PrepareRoot { folders: vec!["data".to_owned()], ..request() },
            PrepareRoot { tmpfs: tmpfs("/run/../etc"), ..request() },
        ];
        for request in bad {
            assert_eq!(check(&request).unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn extra_hosts_follow_the_usual_lines() {
        let extra = |name: &str| [("10.0.0.1".to_owned(), name.to_owned())];
        let own = [IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))];
        let text = hosts("box", &extra("db"), &own);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("ff02::2\tip6-allrouters\n10.0.0.1\tdb\n127.0.1.1\tbox\n"), "{text}");
        assert!(hosts("box", &extra("box box.local"), &own).ends_with("10.0.0.1\tbox box.local\n"));
    }
}
