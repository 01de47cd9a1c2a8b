//! A container's network, as inspection and the list show it: what the guest has, and nothing while it does not run.

use std::net::IpAddr;

use capsid_protocol::InterfaceAddress;
use capsid_runtime::driver::View;
use capsid_runtime::network::{GuestNetwork, NetworkMode};
use serde_json::{Map, Value, json};

/// The network's name: Docker's default, though every container has one by itself, or none.
pub(super) fn name(view: &View) -> &'static str {
    match view.record.options.network.mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
    }
}

/// `NetworkSettings`.
pub(super) fn network(view: &View) -> Value {
    let name = name(view);
    let record = view.record.state.machine.as_ref().and_then(|machine| machine.network.as_ref());
    let addresses = addresses(record.map(|record| &record.guest));
    let mut settings = json!({
        "Bridge": "", "SandboxID": "", "SandboxKey": "", "Ports": {}, "HairpinMode": false,
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null, "EndpointID": "",
    });
    let mut endpoint = json!({
        "IPAMConfig": null, "Links": null, "Aliases": null, "DriverOpts": null, "GwPriority": 0, "NetworkID": "",
        "EndpointID": "", "DNSNames": null,
    });
    for document in [&mut settings, &mut endpoint].into_iter().filter_map(Value::as_object_mut) {
        document.extend(addresses.clone());
    }
    settings["Networks"] = json!({ name: endpoint });
    settings
}

/// What stands in the settings and in the endpoint alike.
fn addresses(guest: Option<&GuestNetwork>) -> Map<String, Value> {
    let all = guest.map_or(&[][..], |guest| &guest.addresses);
    let of = |is: fn(&IpAddr) -> bool| all.iter().find(|each| is(&each.address));
    let address =
        |of: Option<&InterfaceAddress>| of.map_or_else(String::new, |each| each.address.to_string());
    let gateway =
        |of: Option<&InterfaceAddress>| of.map_or_else(String::new, |each| each.gateway.to_string());
    let prefix = |of: Option<&InterfaceAddress>| of.map_or(0, |each| each.prefix);
    let (ipv4, ipv6) = (of(IpAddr::is_ipv4), of(IpAddr::is_ipv6));
    let mac = guest.map_or_else(String::new, |guest| {
        guest.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    });
    let fields = [
        ("IPAddress", json!(address(ipv4))),
        ("IPPrefixLen", json!(prefix(ipv4))),
        ("Gateway", json!(gateway(ipv4))),
        ("GlobalIPv6Address", json!(address(ipv6))),
        ("GlobalIPv6PrefixLen", json!(prefix(ipv6))),
        ("IPv6Gateway", json!(gateway(ipv6))),
        ("MacAddress", json!(mac)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
