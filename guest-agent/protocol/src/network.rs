//! How the machine's network card is set up.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The machine's one network card, which becomes `eth0`. Nothing is asked of anybody on the network: there is no DHCP
/// and there are no router advertisements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSetup {
    /// Largest packet in bytes.
    pub mtu: u32,
    /// At most one of each IP version. A version without an address is off on the card.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of the card, and the default route of its IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that its neighbours share.
    pub prefix: u8,
    /// Where everything else goes: one of the neighbours.
    pub gateway: IpAddr,
}
