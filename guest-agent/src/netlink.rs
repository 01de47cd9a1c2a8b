//! The few requests of rtnetlink(7) that set up an interface, each answered before the next is made.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

// linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
/// Nobody else can have the address: it is there at once (linux/if_addr.h).
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;

/// Length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;
/// What aligns each part.
const ALIGNMENT: usize = 4;
/// An answer is an error number and the request's header, or the whole request when it was refused.
const MAX_ANSWER_BYTES: usize = 512;

/// A connection to the kernel's routing.
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// # Errors
    ///
    /// As of socket(2).
    pub(crate) fn open() -> io::Result<Netlink> {
        // No protocol is NETLINK_ROUTE, whose number is zero.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Netlink { socket })
    }

    /// Brings an interface up, with that MTU if one is given.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn bring_up(&self, interface: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWLINK, 0);
        // ifinfomsg: family and padding, type, index, flags, which flags are meant.
        request.bytes(&[0; 4]).number(interface).number(IFF_UP).number(IFF_UP);
        if let Some(mtu) = mtu {
            request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.ask(request)
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn add_address(&self, interface: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWADDR, NLM_F_CREATE);
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        // ifaddrmsg: family, prefix, flags, scope, interface.
        request.bytes(&[family(address), prefix, flags, RT_SCOPE_UNIVERSE]).number(interface);
        request.address(IFA_LOCAL, address).address(IFA_ADDRESS, address);
        self.ask(request)
    }

    /// Sends everything that has no better route to `gateway`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn add_default_route(&self, interface: u32, gateway: IpAddr) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWROUTE, NLM_F_CREATE);
        // rtmsg: family, lengths of destination and source, type of service; table, protocol, scope, type; flags.
        request.bytes(&[family(gateway), 0, 0, 0]);
        request.bytes(&[RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST]).number(0);
        request.address(RTA_GATEWAY, gateway).attribute(RTA_OIF, &interface.to_ne_bytes());
        self.ask(request)
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        send(&self.socket, &request.finished(), SendFlags::empty())?;
        let mut answer = [0; MAX_ANSWER_BYTES];
        let (length, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        outcome(answer.get(..length).unwrap_or(&answer))
    }
}

/// What the kernel says of a request.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let number =
        answer.get(HEADER_BYTES..).and_then(|rest| rest.first_chunk()).map(|c| i32::from_ne_bytes(*c));
    match (kind, number) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(Errno::from_raw_os_error(error.saturating_neg()).into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    u8::try_from(family.as_raw()).unwrap_or(0)
}

/// A request that is being put together.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16) -> Request {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        Request { bytes }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Request {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn number(&mut self, number: u32) -> &mut Request {
        self.bytes(&number.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Request {
        let length = u16::try_from(ALIGNMENT + value.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value);
        let aligned = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(aligned, 0);
        self
    }

    fn address(&mut self, kind: u16, address: IpAddr) -> &mut Request {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn finished(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_rtnetlink_has_it() {
        let mut request = Request::new(RTM_NEWLINK, 0);
        request.bytes(&[0; 4]).number(2).attribute(IFLA_MTU, &[1, 2, 3, 4]).attribute(1, &[9]);
        let bytes = request.finished();
        assert_eq!(bytes.len(), 16 + 8 + 8 + 8);
        assert_eq!(bytes[..8], [40, 0, 0, 0, 16, 0, 5, 0]);
        assert_eq!(bytes[24..], [8, 0, 4, 0, 1, 2, 3, 4, 5, 0, 1, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let netlink = Netlink::open().unwrap();
        // There is no such interface, and no right to change any.
        let refused = netlink.bring_up(i32::MAX.cast_unsigned(), Some(1500)).unwrap_err();
        assert!(matches!(refused.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{refused}");
        assert!(outcome(&[]).is_err());
        assert!(outcome(&[0; 20]).is_err());
    }
}
