//! The container's /etc/resolv.conf, by Docker's rules: the user's wishes before what the host has, and of that only
//! what the container can reach. Pure.

use std::net::IpAddr;

use super::{NetworkOptions, RESOLVER_IPV4};

/// What the container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Itself.
    Nothing,
    /// IPv4.
    Ipv4,
    /// IPv4 and IPv6.
    Both,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolver {
    /// The file's content.
    pub(super) text: String,
    /// Whether it names [`RESOLVER_IPV4`], which then has to lead to the host's resolver.
    pub(super) forwarded: bool,
}

/// `host` is the host's own file.
pub(super) fn resolv_conf(host: &str, wishes: &NetworkOptions, reach: Reach) -> Resolver {
    let host = HostResolver::read(host);
    let (mut servers, mut forwarded) = (wishes.dns.clone(), false);
    if servers.is_empty() {
        servers = host.servers.iter().copied().filter(|server| is_in_reach(*server, reach)).collect();
        // passt knows the host's first IPv4 server and no other.
        let first = host.servers.iter().find(|server| server.is_ipv4());
        forwarded =
            servers.is_empty() && reach != Reach::Nothing && first.is_some_and(|first| first.is_loopback());
        servers.extend(forwarded.then_some(IpAddr::V4(RESOLVER_IPV4)));
    }
    let search = if wishes.dns_search.is_empty() { &host.search } else { &wishes.dns_search };
    let options = if wishes.dns_options.is_empty() { &host.options } else { &wishes.dns_options };
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() && search != &["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    Resolver { text, forwarded }
}

/// The container's own loopback is not the host's.
fn is_in_reach(server: IpAddr, reach: Reach) -> bool {
    let of_link = matches!(server, IpAddr::V6(server) if server.is_unicast_link_local());
    !server.is_loopback()
        && !server.is_unspecified()
        && !of_link
        && (server.is_ipv4() || reach != Reach::Ipv4)
}

/// The host's file (resolv.conf(5)).
#[derive(Debug, Default)]
struct HostResolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl HostResolver {
    fn read(text: &str) -> HostResolver {
        let mut resolver = HostResolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (keyword, rest) = (words.next().unwrap_or_default(), words.map(str::to_owned));
            match keyword {
                "nameserver" => {
                    resolver.servers.extend(rest.take(1).filter_map(|word| word.parse::<IpAddr>().ok()))
                }
                // The last one counts.
                "search" | "domain" => resolver.search = rest.collect(),
                "options" => resolver.options.extend(rest),
                _ => {}
            }
        }
        resolver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver 2001:db8::1\n\
                        nameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2\n";

    fn text(host: &str, wishes: &NetworkOptions, reach: Reach) -> String {
        resolv_conf(host, wishes, reach).text
    }

    #[test]
    fn the_hosts_servers_are_named_as_far_as_they_are_in_reach() {
        let wishes = NetworkOptions::default();
        let rest = "search a.example b.example\noptions ndots:2\n";
        let both = format!("nameserver 10.0.0.1\nnameserver 2001:db8::1\n{rest}");
        assert_eq!(resolv_conf(HOST, &wishes, Reach::Both), Resolver { text: both, forwarded: false });
        assert_eq!(text(HOST, &wishes, Reach::Ipv4), format!("nameserver 10.0.0.1\n{rest}"));
    }

    #[test]
    fn a_resolver_on_the_hosts_loopback_is_led_to() {
        let wishes = NetworkOptions::default();
        let led = Resolver { text: "nameserver 10.87.0.3\n".to_owned(), forwarded: true };
        assert_eq!(resolv_conf("nameserver 127.0.0.1\n", &wishes, Reach::Ipv4), led);
        assert_eq!(text("nameserver 127.0.0.1\n", &wishes, Reach::Nothing), "");
        assert_eq!(text("", &wishes, Reach::Both), "");
    }

    #[test]
    fn wishes_come_first() {
        let wishes = NetworkOptions {
            dns: vec!["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            dns_search: vec![".".to_owned()],
            dns_options: vec!["timeout:1".to_owned()],
            ..NetworkOptions::default()
        };
        let expected = "nameserver 192.0.2.1\nnameserver 127.0.0.1\noptions timeout:1\n";
        assert_eq!(text(HOST, &wishes, Reach::Ipv4), expected);
    }
}
