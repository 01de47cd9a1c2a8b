//! What is settled about a machine's network before the machine starts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use capsid_protocol::{InterfaceAddress, NetworkSetup};
use capsid_vmm::network::MacAddress;

use super::passt::{Passt, PasstArguments, find_passt};
use super::resolver::{Reach, resolv_conf};
use super::{
    GATEWAY_IPV4, GATEWAY_IPV6, GUEST_IPV4, GUEST_IPV6, GuestNetwork, MTU, Network, NetworkError,
    NetworkMode, NetworkOptions, NetworkRecord, PREFIX_IPV4, PREFIX_IPV6, host,
};
use crate::container::ContainerId;

/// The host's addresses, as the kernel lists them.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved names the servers that it asks itself.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// systemd-resolved's own address, when it is the only one that the host names.
const RESOLVED_STUB: &str = "127.0.0.53";
/// Locally administered and unicast (IEEE 802).
const LOCAL_UNICAST: u8 = 0x02;

/// What is settled.
#[derive(Debug)]
pub(crate) struct NetworkPlan {
    /// The content of /etc/resolv.conf.
    pub(crate) resolv_conf: String,
    card: Option<(GuestNetwork, PasstArguments, PathBuf)>,
}

/// The machine's end of the wire.
#[derive(Debug)]
pub struct Card {
    /// Carries frames.
    pub socket: UnixStream,
    /// The card's address.
    pub mac: MacAddress,
}

/// passt's end of it.
#[derive(Debug)]
pub(crate) struct Launcher {
    socket: UnixStream,
    program: PathBuf,
    arguments: PasstArguments,
    guest: GuestNetwork,
}

impl NetworkPlan {
    /// Settles the network of a container's next machine, by the wishes and by what the host has now.
    ///
    /// # Errors
    ///
    /// [`NetworkError::NoPasst`].
    pub(crate) fn settle(wishes: &NetworkOptions, id: &ContainerId) -> Result<NetworkPlan, NetworkError> {
        let uplink = ipv6_uplink(&fs::read_to_string(IPV6_ADDRESSES).unwrap_or_default());
        let reach = match (wishes.mode, &uplink) {
            (NetworkMode::None, _) => Reach::Nothing,
            (NetworkMode::Bridge, None) => Reach::Ipv4,
            (NetworkMode::Bridge, Some(_)) => Reach::Both,
        };
        let resolver = resolv_conf(&host_resolv_conf(), wishes, reach);
        let card = match wishes.mode {
            NetworkMode::None => None,
            NetworkMode::Bridge => {
                let arguments = PasstArguments { ipv6_uplink: uplink, forwards_dns: resolver.forwarded };
                let program = find_passt().ok_or(NetworkError::NoPasst)?;
                Some((guest(id, reach == Reach::Both), arguments, program))
            }
        };
        Ok(NetworkPlan { resolv_conf: resolver.text, card })
    }

    /// What the agent is told.
    pub(crate) fn setup(&self) -> Option<NetworkSetup> {
        let (guest, ..) = self.card.as_ref()?;
        Some(NetworkSetup { mtu: MTU, addresses: guest.addresses.clone() })
    }

    /// Makes the wire.
    ///
    /// # Errors
    ///
    /// There is no socket to be had.
    pub(crate) fn wire(&self) -> Result<Option<(Card, Launcher)>, NetworkError> {
        let Some((guest, arguments, program)) = self.card.clone() else { return Ok(None) };
        let (socket, theirs) = UnixStream::pair().map_err(host("make a socket for the network"))?;
        let card = Card { socket, mac: guest.mac };
        Ok(Some((card, Launcher { socket: theirs, program, arguments, guest })))
    }
}

impl Launcher {
    /// Starts passt. It ends when the card's socket is closed.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(crate) fn start(self) -> Result<Network, NetworkError> {
        let passt = Passt::start(&self.program, self.socket.into(), &self.arguments)?;
        Ok(Network {
            record: NetworkRecord { guest: self.guest, process: passt.identity() },
            passt: Some(passt),
        })
    }
}

fn guest(id: &ContainerId, ipv6: bool) -> GuestNetwork {
    let address = |address: IpAddr, prefix, gateway: IpAddr| InterfaceAddress { address, prefix, gateway };
    let mut addresses = vec![address(GUEST_IPV4.into(), PREFIX_IPV4, GATEWAY_IPV4.into())];
    if ipv6 {
        addresses.push(address(GUEST_IPV6.into(), PREFIX_IPV6, GATEWAY_IPV6.into()));
    }
    GuestNetwork { mac: mac_of(id), addresses }
}

/// Programs take a card's address for a name of the machine, so it is the container's for all its life, and no other's.
fn mac_of(id: &ContainerId) -> MacAddress {
    let digits = |at: usize| id.as_str().get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let byte = |index: usize| digits(2 * index).unwrap_or_default();
    [LOCAL_UNICAST, byte(0), byte(1), byte(2), byte(3), byte(4)]
}

/// An interface by which the host itself has IPv6: one with an address beyond its link, and one of its link, without
/// which passt goes without IPv6.
fn ipv6_uplink(addresses: &str) -> Option<String> {
    const GLOBAL: &str = "00";
    const LINK: &str = "20";
    // Address, index, prefix, scope, flags, name.
    let fields = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        Some((fields.next()?.to_owned(), fields.nth(1)?.to_owned()))
    };
    let all: Vec<_> = addresses.lines().filter_map(fields).filter(|(_, name)| name != "lo").collect();
    let has = |scope: &str, name: &str| all.iter().any(|(other, of)| other == scope && of == name);
    all.iter().find(|(scope, name)| scope == GLOBAL && has(LINK, name)).map(|(_, name)| name.clone())
}

fn host_resolv_conf() -> String {
    let read = |path: &str| -> io::Result<String> { fs::read_to_string(path) };
    let text = read(RESOLV_CONF).unwrap_or_default();
    let mut servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let is_stub = servers.next().map(str::trim) == Some(RESOLVED_STUB) && servers.next().is_none();
    if is_stub { read(RESOLVED_CONF).unwrap_or(text) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_had_through_an_interface_that_leads_beyond_its_link() {
        let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link = "fe800000000000000000000000000001 02 40 20 80     eth0\n";
        let global = "fd000000000000000000000000000002 02 40 00 80     eth0\n";
        let other = "fd000000000000000000000000000003 03 40 00 80     wg0\n";
        assert_eq!(ipv6_uplink(&[loopback, link].concat()), None);
        assert_eq!(ipv6_uplink(&[loopback, other].concat()), None);
        assert_eq!(ipv6_uplink(&[loopback, other, global, link].concat()).as_deref(), Some("eth0"));
        assert_eq!(ipv6_uplink("nonsense\n\n"), None);
    }

    #[test]
    fn a_card_has_an_address_of_its_containers_own() {
        let id = ContainerId::try_from("0123456789ab".repeat(5) + "cdef").unwrap();
        assert_eq!(mac_of(&id), [0x02, 0x01, 0x23, 0x45, 0x67, 0x89]);
    }

    #[test]
    fn without_a_network_there_is_no_card() {
        let id = ContainerId::generate().unwrap();
        let wishes = NetworkOptions { mode: NetworkMode::None, ..NetworkOptions::default() };
        let plan = NetworkPlan::settle(&wishes, &id).unwrap();
        assert!(plan.setup().is_none() && plan.wire().unwrap().is_none());
    }
}
