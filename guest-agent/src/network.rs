//! What the machine's network stack needs beyond the kernel's defaults: its loopback interface, and the network card if
//! the host gives it one.

use std::net::IpAddr;

use capsid_protocol::{ErrorCode, NetworkSetup, Refusal};

use crate::cgroup::write_existing;
use crate::error::{Step, StepError, refusal};
use crate::netlink::Netlink;

/// The kernel's number of the loopback interface (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// The one card, as the kernel names it.
const CARD: &str = "eth0";
/// One for IPv4 and one for IPv6.
const MAX_ADDRESSES: usize = 2;

/// Brings the loopback interface up; the kernel gives it its addresses.
///
/// # Errors
///
/// The kernel refuses.
pub(crate) fn bring_loopback_up() -> Result<(), StepError> {
    let up = Netlink::open().and_then(|netlink| netlink.bring_up(LOOPBACK, None));
    up.step(|| "failed to bring the loopback interface up".to_owned())
}

/// Whether a setup makes sense.
///
/// # Errors
///
/// It does not.
pub(crate) fn check(setup: &NetworkSetup) -> Result<(), Refusal> {
    let longest = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let sound = setup.addresses.len() <= MAX_ADDRESSES
        && setup.addresses.iter().all(|each| {
            each.prefix <= longest(each.address) && each.address.is_ipv4() == each.gateway.is_ipv4()
        });
    if sound {
        Ok(())
    } else {
        Err(refusal(ErrorCode::InvalidArgument, "the network's addresses make no sense"))
    }
}

/// Sets the network card up.
///
/// # Errors
///
/// There is no card, or the kernel refuses.
pub(crate) fn set_up(setup: &NetworkSetup) -> Result<(), StepError> {
    let failed = || format!("failed to set up {CARD}");
    let number = std::fs::read_to_string(format!("/sys/class/net/{CARD}/ifindex")).step(failed)?;
    let card = number.trim().parse().map_err(std::io::Error::other).step(failed)?;
    choose_ipv6(setup.addresses.iter().any(|each| each.address.is_ipv6()));
    let netlink = Netlink::open().step(failed)?;
    netlink.bring_up(card, Some(setup.mtu)).step(failed)?;
    for each in &setup.addresses {
        let failed = || format!("failed to give {CARD} the address {}", each.address);
        netlink.add_address(card, each.address, each.prefix).step(failed)?;
        netlink.add_default_route(card, each.gateway).step(failed)?;
    }
    Ok(())
}

/// IPv6 as it was set up and not as anybody on the network has it, without waiting for neighbours who might have the
/// same address; or none at all. A kernel without IPv6 has none of these.
fn choose_ipv6(wanted: bool) {
    let settings: &[(&str, &str)] =
        if wanted { &[("accept_ra", "0"), ("dad_transmits", "0")] } else { &[("disable_ipv6", "1")] };
    for (name, value) in settings {
        let _ = write_existing(&format!("/proc/sys/net/ipv6/conf/{CARD}/{name}"), value);
    }
}

/// What Docker sets in a network namespace of its own since 20.10: every user may bind low ports and ping.
/// `proc` is where proc is mounted. A kernel without one of them goes without.
pub(crate) fn open_ports_and_ping(proc: &str) {
    let _ = write_existing(&format!("{proc}/sys/net/ipv4/ip_unprivileged_port_start"), "0");
    let _ = write_existing(&format!("{proc}/sys/net/ipv4/ping_group_range"), "0 2147483647");
}

#[cfg(test)]
mod tests {
    use capsid_protocol::InterfaceAddress;

    use super::*;

    fn setup(address: &str, prefix: u8, gateway: &str) -> NetworkSetup {
        let parse = |text: &str| text.parse().unwrap();
        let address = InterfaceAddress { address: parse(address), prefix, gateway: parse(gateway) };
        NetworkSetup { mtu: 1500, addresses: vec![address] }
    }

    #[test]
    fn a_setup_without_sense_is_refused() {
        assert!(check(&setup("10.0.0.2", 24, "10.0.0.1")).is_ok());
        assert!(check(&setup("fd00::2", 128, "fd00::1")).is_ok());
        assert!(check(&setup("10.0.0.2", 33, "10.0.0.1")).is_err());
        assert!(check(&setup("10.0.0.2", 24, "fd00::1")).is_err());
        let many = setup("10.0.0.2", 24, "10.0.0.1").addresses.repeat(3);
        assert!(check(&NetworkSetup { mtu: 1500, addresses: many }).is_err());
    }
}
