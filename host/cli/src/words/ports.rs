//! `--publish` and `--expose`.

use std::collections::HashMap;

use capsid_api::models::PortBinding;

type Bindings = HashMap<String, Option<Vec<PortBinding>>>;

/// `[[ADDRESS:]HOST-PORT:]PORT[/PROTOCOL]`, each.
pub(crate) fn bindings(texts: &[String]) -> Result<Bindings, String> {
    let mut bindings = Bindings::new();
    for text in texts {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let (address, host_port) = host.rsplit_once(':').unwrap_or(("", host));
        let binding = PortBinding {
            host_ip: Some(address.trim_matches(['[', ']']).to_owned()),
            host_port: Some(host_port.to_owned()),
        };
        bindings.entry(exposed(port)?).or_default().get_or_insert_default().push(binding);
    }
    Ok(bindings)
}

/// `80`, `80/udp`, `80-90`: with its protocol.
pub(crate) fn exposed(text: &str) -> Result<String, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = |text: &str| text.parse::<u16>().is_ok();
    let valid =
        range.split_once('-').map_or_else(|| number(range), |(first, last)| number(first) && number(last));
    if !valid {
        return Err(format!("invalid containerPort: {text}"));
    }
    Ok(format!("{range}/{}", protocol.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_hosts_addresses_and_protocols() {
        let bound =
            bindings(&["127.0.0.1:8080:80".to_owned(), "53:53/UDP".to_owned(), "90".to_owned()]).unwrap();
        let of = |port: &str| bound[port].as_ref().unwrap()[0].clone();
        assert_eq!(of("80/tcp").host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(of("80/tcp").host_port.as_deref(), Some("8080"));
        assert_eq!(of("53/udp").host_port.as_deref(), Some("53"));
        assert_eq!(of("90/tcp").host_port.as_deref(), Some(""));
        assert!(bindings(&["a:b".to_owned()]).is_err() && exposed("").is_err());
    }
}
