//! Which frames pass between the guest and its network.
//!
//! passt opens connections to whatever address a frame names, on the host and as one of the host's programs. A guest
//! whose kernel is its own can name 127.0.0.1, and would be talking to services that trust everybody who reaches them;
//! `--no-map-gw` only takes away the convenient way there. So what leads to the host's loopback is stopped here, and
//! with it all that no guest has a reason to send:
//!
//! | from the guest | why not |
//! |---|---|
//! | to 127.0.0.0/8, to ::1, to either within an IPv6 address | the host's loopback |
//! | to 0.0.0.0/8, to :: | Linux takes it for the loopback too |
//! | to multicast and broadcast addresses | services of the host's link, which would take them for a neighbour's |
//! | to fe80::/10, but for finding neighbours | the same: it needs no router |
//! | neither IP nor ARP | passt does not know it |
//!
//! A host's own address on its network leads to its services as it does for everybody else in that network.
//!
//! The other way there is one thing to stop. For a guest's datagrams passt binds a port of the host's, on every
//! address, and what a program of the host sends to that port through the loopback would reach the guest; passt shows
//! it as coming from the gateway. The gateway is a route and no host: nothing else has that source.
//!
//! Pure functions of a frame's first bytes, which must be a copy: in the guest's memory they could change after they
//! were looked at.

use std::net::{Ipv4Addr, Ipv6Addr};

// Ethernet (IEEE 802.3): destination, source, type.
const ETHER_TYPE: usize = 12;
const PAYLOAD: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

// IPv4 (RFC 791) and IPv6 (RFC 8200) headers, from their beginnings.
const IPV4_PROTOCOL: usize = 9;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;
const IPV6_HEADER_BYTES: usize = 40;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Router and neighbour solicitations and advertisements (RFC 4861, 4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=136;

/// The border of one guest.
#[derive(Debug, Clone, Copy, Default)]
pub struct Border {
    gateway: Option<Ipv4Addr>,
}

impl Border {
    /// `gateway` is the address that passt was told to be the guest's gateway's.
    #[must_use]
    pub fn new(gateway: Option<Ipv4Addr>) -> Border {
        Border { gateway }
    }

    /// Whether the guest may send this frame.
    #[must_use]
    pub fn lets_out(&self, frame: &[u8]) -> bool {
        match Packet::of(frame) {
            Some(Packet::Arp) => true,
            Some(Packet::V4(header)) => {
                address_v4(header, IPV4_DESTINATION).is_some_and(|destination| !is_barred_v4(destination))
            }
            Some(Packet::V6(header)) => {
                let link = |destination| is_of_link(destination) && !is_neighbour_discovery(header);
                address_v6(header, IPV6_DESTINATION)
                    .is_some_and(|destination| !is_barred_v6(destination) && !link(destination))
            }
            None => false,
        }
    }

    /// Whether the guest may receive this frame.
    #[must_use]
    pub fn lets_in(&self, frame: &[u8]) -> bool {
        match Packet::of(frame) {
            Some(Packet::Arp) => true,
            Some(Packet::V4(header)) => {
                let is_gateway = |source| Some(source) == self.gateway;
                address_v4(header, IPV4_SOURCE)
                    .is_some_and(|source| !is_gateway(source) || header[IPV4_PROTOCOL] == ICMP)
            }
            Some(Packet::V6(header)) => address_v6(header, IPV6_SOURCE)
                .is_some_and(|source| !is_of_link(source) || header[IPV6_NEXT_HEADER] == ICMPV6),
            None => false,
        }
    }
}

/// What a frame carries, with the bytes behind its Ethernet header.
enum Packet<'a> {
    Arp,
    V4(&'a [u8]),
    V6(&'a [u8]),
}

impl Packet<'_> {
    fn of(frame: &[u8]) -> Option<Packet<'_>> {
        let kind = frame.get(ETHER_TYPE..PAYLOAD)?;
        let payload = frame.get(PAYLOAD..)?;
        match <[u8; 2]>::try_from(kind).ok()? {
            ARP => Some(Packet::Arp),
            IPV4 => Some(Packet::V4(payload)),
            IPV6 => Some(Packet::V6(payload)),
            _ => None,
        }
    }
}

fn address_v4(header: &[u8], at: usize) -> Option<Ipv4Addr> {
    header.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

fn address_v6(header: &[u8], at: usize) -> Option<Ipv6Addr> {
    header.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// "This network" (RFC 1122, 3.2.1.3), loopback, and everything from multicast up.
fn is_barred_v4(destination: Ipv4Addr) -> bool {
    let first = destination.octets()[0];
    first == 0 || first == 127 || first >= 224
}

/// Everything whose upper half is zero: unspecified, loopback, and the forms that hold an IPv4 address (RFC 4291,
/// 2.5.5, and RFC 2765, 2.1), which Linux takes for that address.
fn is_barred_v6(destination: Ipv6Addr) -> bool {
    destination.segments()[..4] == [0; 4]
}

/// Link-local and multicast.
fn is_of_link(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.is_multicast()
}

fn is_neighbour_discovery(header: &[u8]) -> bool {
    header[IPV6_NEXT_HEADER] == ICMPV6
        && header.get(IPV6_HEADER_BYTES).is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

    fn border() -> Border {
        Border::new(Some(GATEWAY))
    }

    fn frame(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
        [[2; 12].as_slice(), &kind, payload].concat()
    }

    fn v4(protocol: u8, source: &str, destination: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv4Addr>().expect("an address").octets();
        let mut header = [0; 28];
        header[0] = 0x45;
        header[IPV4_PROTOCOL] = protocol;
        header[IPV4_SOURCE..IPV4_SOURCE + 4].copy_from_slice(&octets(source));
        header[IPV4_DESTINATION..IPV4_DESTINATION + 4].copy_from_slice(&octets(destination));
        frame(IPV4, &header)
    }

    fn v6(protocol: u8, kind: u8, source: &str, destination: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        let mut header = [0; 48];
        header[0] = 0x60;
        header[IPV6_NEXT_HEADER] = protocol;
        header[IPV6_SOURCE..IPV6_SOURCE + 16].copy_from_slice(&octets(source));
        header[IPV6_DESTINATION..IPV6_DESTINATION + 16].copy_from_slice(&octets(destination));
        header[IPV6_HEADER_BYTES] = kind;
        frame(IPV6, &header)
    }

    #[test]
    fn the_hosts_loopback_is_out_of_reach_by_every_name_of_it() {
        for destination in ["127.0.0.1", "127.255.255.255", "127.0.0.53", "0.0.0.0", "0.1.2.3"] {
            for protocol in [ICMP, TCP, UDP] {
                assert!(!border().lets_out(&v4(protocol, "10.0.2.2", destination)), "{destination}");
            }
        }
        for destination in
            ["::1", "::", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "::127.0.0.1", "::ffff:0:127.0.0.1"]
        {
            for protocol in [ICMPV6, TCP, UDP] {
                assert!(!border().lets_out(&v6(protocol, 135, "fd00::2", destination)), "{destination}");
            }
        }
    }

    #[test]
    fn the_world_is_in_reach() {
        for destination in ["192.0.2.1", "10.0.0.1", "169.254.169.254", "223.255.255.255", "1.0.0.0"] {
            assert!(border().lets_out(&v4(TCP, "10.0.2.2", destination)), "{destination}");
        }
        for destination in ["2001:db8::1", "fd00::1", "64:ff9b::192.0.2.1", "fec0::1"] {
            assert!(border().lets_out(&v6(UDP, 0, "fd00::2", destination)), "{destination}");
        }
        assert!(border().lets_out(&frame(ARP, &[0; 28])));
    }

    #[test]
    fn the_hosts_link_is_for_finding_neighbours_only() {
        for destination in ["224.0.0.251", "239.255.255.250", "255.255.255.255"] {
            assert!(!border().lets_out(&v4(UDP, "10.0.2.2", destination)), "{destination}");
        }
        for destination in ["fe80::1", "febf::1", "ff02::1", "ff02::fb", "ff05::2"] {
            assert!(!border().lets_out(&v6(UDP, 135, "fd00::2", destination)), "{destination}");
            assert!(!border().lets_out(&v6(ICMPV6, 128, "fd00::2", destination)), "{destination}");
            assert!(border().lets_out(&v6(ICMPV6, 135, "fd00::2", destination)), "{destination}");
        }
    }

    #[test]
    fn what_is_cut_short_or_of_another_kind_stays_inside() {
        let whole = v4(TCP, "10.0.2.2", "192.0.2.1");
        assert!((0..PAYLOAD + 20).all(|length| !border().lets_out(&whole[..length])));
        let whole = v6(TCP, 0, "fd00::2", "2001:db8::1");
        assert!((0..PAYLOAD + 40).all(|length| !border().lets_out(&whole[..length])));
        // A VLAN tag in front of IPv4, and a length instead of a type.
        assert!(!border().lets_out(&frame([0x81, 0], &[0; 60])));
        assert!(!border().lets_out(&frame([0, 46], &[0; 60])));
    }

    #[test]
    fn nothing_speaks_as_the_gateway_but_to_say_that_it_is_there() {
        assert!(!border().lets_in(&v4(UDP, "10.0.2.1", "10.0.2.2")));
        assert!(!border().lets_in(&v4(TCP, "10.0.2.1", "10.0.2.2")));
        assert!(border().lets_in(&v4(ICMP, "10.0.2.1", "10.0.2.2")));
        assert!(border().lets_in(&v4(UDP, "192.0.2.1", "10.0.2.2")));
        assert!(border().lets_in(&frame(ARP, &[0; 28])));
        assert!(!border().lets_in(&v6(UDP, 0, "fe80::1", "fe80::2")));
        assert!(border().lets_in(&v6(ICMPV6, 136, "fe80::1", "fd00::2")));
        assert!(border().lets_in(&v6(TCP, 0, "2001:db8::1", "fd00::2")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(frame in prop::collection::vec(any::<u8>(), 0..80), kind in 0_usize..4) {
            let mut frame = frame;
            if let (Some(slot), Some(known)) = (frame.get_mut(ETHER_TYPE..PAYLOAD), [ARP, IPV4, IPV6].get(kind)) {
                slot.copy_from_slice(known);
            }
            let _ = (border().lets_out(&frame), border().lets_in(&frame));
        }
    }
}
