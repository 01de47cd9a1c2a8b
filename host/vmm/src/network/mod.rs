//! The guest's way to the network: a stream socket that carries Ethernet frames, and the border that they cross.
//!
//! At the socket's other end is a program that turns frames into the host's own connections (passt), or anything else
//! that speaks as QEMU does: before each frame its length, four bytes, big-endian. That program is believed to deliver
//! frames and no more: what it says about lengths is bounded, and it may stall or end at any time, which costs the
//! guest its network and nothing else.
//!
//! ```text
//!  KVM       guest ══virtio══ devices::virtio::net ─── border ─── socket ─── passt ─── the host's network
//!  emulated  guest ══virtio══ QEMU's own device ══socket══ relay ── border ─── socket ─── passt ─── …
//! ```
//!
//! [`border`] decides which frames pass, since passt does not: it connects to whatever address a frame names, the
//! host's loopback included. [`reset`] mends what passt gets wrong.

pub mod border;
pub mod frames;
pub mod relay;
pub(crate) mod reset;

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

/// A network card's address. The device takes any; a sensible one is unicast and locally administered.
pub type MacAddress = [u8; 6];

/// What the network device is built from.
#[derive(Debug)]
pub struct NetworkParts {
    /// Where the frames go and come from.
    pub socket: UnixStream,
    /// The guest's card.
    pub mac: MacAddress,
    /// See [`border::Border`].
    pub gateway: Option<Ipv4Addr>,
}
