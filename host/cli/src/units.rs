//! Values of flags: sizes, limits, settings.

use capsid_protocol::{Rlimit, RlimitKind, TmpfsMount};
use capsid_runtime::network::{HOST_GATEWAY, HOST_GATEWAY_REFUSED, NetworkMode, is_resolver_word};

/// Options of a tmpfs when none are given (moby, `defaultMountOptions` of --tmpfs).
const TMPFS_OPTIONS: &str = "noexec,nosuid,nodev";

/// `512m`, `1.5g`, `4096`: bytes, in powers of 1024, with the suffixes that docker takes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let digits =
        lower.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(digits);
    let shift = match suffix.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * f64::from(2_u32).powi(shift);
    // Beyond 2^63 a size is a slip of the keyboard; below, the cast is exact enough for fractions of a unit.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    if bytes.is_finite() && (0.0..9.2e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `bytes` as people read it, in powers of 1000, as docker prints images' sizes.
pub(crate) fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// `nofile=1024`, `nofile=1024:2048`, `core=-1`.
pub(crate) fn parse_ulimit(text: &str) -> Result<Rlimit, String> {
    let wrong = || format!("invalid ulimit argument: {text}");
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let kind = RlimitKind::from_name(name).ok_or_else(|| format!("invalid ulimit type: {name}"))?;
    let value = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| wrong()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    Ok(Rlimit { kind, soft, hard })
}

/// `/run` or `/run:size=64m,mode=755`.
pub(crate) fn parse_tmpfs(text: &str) -> Result<TmpfsMount, String> {
    let (path, asked) = text.split_once(':').unwrap_or((text, ""));
    let separator = if asked.is_empty() { "" } else { "," };
    Ok(TmpfsMount { path: path.to_owned(), options: format!("{TMPFS_OPTIONS}{separator}{asked}") })
}

/// `name:address`, or `name=address`.
pub(crate) fn parse_host(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("bad format for add-host: \"{text}\"");
    let (name, address) = text.split_once(['=', ':']).ok_or_else(wrong)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address == HOST_GATEWAY {
        return Err(HOST_GATEWAY_REFUSED.to_owned());
    }
    let parsed: std::net::IpAddr =
        address.parse().map_err(|_| format!("invalid IP address in add-host: \"{address}\""))?;
    let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok((parsed.to_string(), name.to_owned())) } else { Err(wrong()) }
}

/// The networks that there are.
pub(crate) fn parse_network(text: &str) -> Result<NetworkMode, String> {
    match text {
        "" | "default" | "bridge" => Ok(NetworkMode::Bridge),
        "none" => Ok(NetworkMode::None),
        "host" => Err("a virtual machine cannot share the host's network".to_owned()),
        _ if text.starts_with("container:") => {
            Err("a virtual machine cannot share another container's network".to_owned())
        }
        _ => Err(format!("network {text} not found: there are bridge and none")),
    }
}

/// A word of a resolver's configuration, which is a file of lines of words.
pub(crate) fn parse_resolver_word(text: &str) -> Result<String, String> {
    if is_resolver_word(text) { Ok(text.to_owned()) } else { Err("it is not one word".to_owned()) }
}

/// `NAME=value` as it is; `NAME` with this process's value, or alone when it has none, which takes it away.
pub(crate) fn environment_setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("invalid environment variable: {text}")),
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Err("invalid environment variable: ".to_owned()),
        None => Ok(std::env::var(text).map_or_else(|_| text.to_owned(), |value| format!("{text}={value}"))),
    }
}

/// The settings of an --env-file: a line each, blank lines and lines that start with `#` left out.
pub(crate) fn environment_file(content: &str) -> Result<Vec<String>, String> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let lines =
        content.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let name = line.split('=').next().unwrap_or_default();
            if name.contains(char::is_whitespace) {
                return Err(format!("variable '{name}' contains whitespaces"));
            }
            environment_setting(line)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("256m", 256 << 20),
            ("256MB", 256 << 20),
            ("1.5g", 3 << 29),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "-1m", "1x", "1 2m", "1e9g", "999999999t"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_printed_with_three_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (170_000_000, "170MB"),
            (999_900, "1MB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_bytes(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn ulimits_have_one_value_or_two() {
        let limit = |soft, hard| Ok(Rlimit { kind: RlimitKind::Nofile, soft, hard });
        assert_eq!(parse_ulimit("nofile=10"), limit(10, 10));
        assert_eq!(parse_ulimit("nofile=10:20"), limit(10, 20));
        assert_eq!(parse_ulimit("nofile=-1"), limit(u64::MAX, u64::MAX));
        for bad in ["nofile", "nofile=", "nofile=a", "wings=1", "nofile=1:2:3"] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn environment_files_leave_out_blanks_and_comments() {
        let settings = environment_file("# comment\n\nA=1\n  B=two words\n").unwrap();
        assert_eq!(settings, ["A=1", "B=two words"]);
        assert!(environment_file("bad name=1").is_err());
        assert!(environment_setting("=x").is_err());
        assert_eq!(environment_setting("CAPSID_SURELY_UNSET").unwrap(), "CAPSID_SURELY_UNSET");
    }

    #[test]
    fn hosts_need_a_name_and_an_address() {
        assert_eq!(parse_host("db:10.0.0.1"), Ok(("10.0.0.1".into(), "db".into())));
        assert_eq!(parse_host("db=[::1]"), Ok(("::1".into(), "db".into())));
        for bad in ["db", "db:x", ":1.2.3.4", "d b:1.2.3.4"] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }
}
