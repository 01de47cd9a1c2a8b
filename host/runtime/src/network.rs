//! A machine's network: a card whose other end is a process of `passt`, which turns what the guest sends into
//! connections of the host's. No privilege is needed for it, on the host nothing is set up, and each machine is alone on
//! its network.
//!
//! ```text
//!  guest eth0 ══virtio══ capsid-vmm ── border ── socket pair ── passt ── the host's own sockets
//! ```
//!
//! passt belongs to the machine: it ends when the monitor's end of the socket pair closes, however that went, and
//! survives this process as the monitor does. It is told nothing by the guest but frames; that none of them leads to
//! the host's loopback is seen to in `capsid_vmm::network::border`. What it does to confine itself (a user of its own,
//! an empty root, no capability, a filter of system calls) is waited for before a program of the container runs.

mod passt;
mod plan;
mod resolver;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use capsid_protocol::InterfaceAddress;
use capsid_vmm::network::MacAddress;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::container::ContainerId;

pub use passt::{Passt, ProcessIdentity, find_passt};
pub use plan::Card;
pub(crate) use plan::{Launcher, NetworkPlan};

/// The guest's address, the same in each machine. These three hide what has them on the host's networks, and nothing
/// else of that range: a guest reaches all other addresses there.
pub const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 2);
/// Where the guest sends what is for elsewhere; nobody answers there.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
/// The host's resolver where that is on its loopback, for datagrams to port 53 only.
pub const RESOLVER_IPV4: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 3);
/// Bits that these share.
pub const PREFIX_IPV4: u8 = 24;
/// The guest's IPv6 address, if the host has IPv6: of a unique local prefix (RFC 4193) that spells the project's name.
pub const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 2);
/// Its gateway.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 1);
/// Bits that these share.
pub const PREFIX_IPV6: u8 = 64;
/// The largest packet. passt ends the guest's connections and makes its own, so this says nothing about any network
/// beyond; the larger it is, the less a byte costs. 65520 is passt's own default.
pub const MTU: u32 = 65520;

/// How long after its network a machine may take to end when it was the machine that ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// Docker's word for the host's address in an additional line of /etc/hosts.
pub const HOST_GATEWAY: &str = "host-gateway";
/// Why there is none: what listens on the host's loopback is not for guests.
pub const HOST_GATEWAY_REFUSED: &str =
    "unable to derive the IP value for host-gateway: the host's loopback is out of a virtual machine's reach";

/// Whether a text is one word of a resolver's configuration, which is a file of lines of words.
#[must_use]
pub fn is_resolver_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_graphic())
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// One of its own, with a way to the host's networks.
    #[default]
    Bridge,
    /// The loopback interface.
    None,
}

/// What a user asks of a container's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkOptions {
    /// Which one.
    pub mode: NetworkMode,
    /// Name servers; the host's if empty.
    pub dns: Vec<IpAddr>,
    /// Domains to search; the host's if empty, none if it is `.`.
    pub dns_search: Vec<String>,
    /// Options of the resolver; the host's if empty.
    pub dns_options: Vec<String>,
}

/// How a guest's card was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// The card's address.
    pub mac: MacAddress,
    /// Its IPv4 address, and its IPv6 address if it has one.
    pub addresses: Vec<InterfaceAddress>,
}

/// A network that outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The guest's side.
    pub guest: GuestNetwork,
    /// passt.
    pub process: ProcessIdentity,
}

/// Why a machine has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The program is not installed.
    #[error(
        "passt, which connects containers to the network, is not in PATH: install it (Debian's package passt), or start the container with --network none"
    )]
    NoPasst,
    /// Something of the host's was refused.
    #[error("failed to {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended at once.
    #[error("passt, which connects the container to the network, ended: {0}")]
    Ended(String),
    /// It is not ready.
    #[error("passt, which connects the container to the network, did not confine itself in time")]
    NotConfined,
}

fn host(action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Host { action, source }
}

/// A machine's network while the machine lives.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) record: NetworkRecord,
    /// Absent when it was gone already when the machine was taken over.
    pub(crate) passt: Option<Passt>,
}

impl Network {
    /// Takes over what a record tells of.
    pub(crate) fn adopt(record: NetworkRecord) -> Network {
        let passt = Passt::adopt(record.process);
        Network { record, passt }
    }

    /// Waits until it may be used.
    pub(crate) async fn confined(&self) -> Result<(), NetworkError> {
        match &self.passt {
            Some(passt) => passt.confined().await,
            None => Ok(()),
        }
    }

    /// Says so when the machine loses it, which its guest has to live without. `machine_ended` waits for the machine's
    /// end.
    pub(crate) fn watch<T>(&self, id: &ContainerId, machine_ended: impl Future<Output = T> + Send + 'static) {
        let (container, process) = (id.short().to_owned(), self.record.process.pid);
        let gone = self.passt.as_ref().map(Passt::ended);
        tokio::spawn(async move {
            if let Some(gone) = gone {
                gone.await;
            }
            // It ends with its machine.
            if timeout(FAREWELL, machine_ended).await.is_err() {
                let lost = "passt has ended: the container has no network until its next start";
                tracing::warn!(%container, process, "{lost}");
            }
        });
    }

    /// For a machine that has ended: passt has, too, or is ended.
    pub(crate) fn end(&self) {
        if let Some(passt) = &self.passt {
            passt.kill();
        }
    }
}
