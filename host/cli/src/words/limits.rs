//! Sizes, numbers of processors, resource limits, restart policies.

use capsid_api::models::{ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum};

/// `512m`, `1.5g`, `4096`: bytes, in powers of 1024, with the suffixes that docker takes.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
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
        "p" => 50,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * f64::from(2_u32).powi(shift);
    // Beyond 2^63 a size is a slip of the keyboard; below, the cast is exact enough for fractions of a unit.
    #[allow(clippy::cast_possible_truncation)]
    if (0.0..9.2e18).contains(&bytes) { Ok(bytes as i64) } else { Err(wrong()) }
}

/// As [`bytes`], and -1 for no limit.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// `1.5`: processors, as thousand millionths of one.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let number: f64 = text.parse().map_err(|_| wrong())?;
    let nano = (number * 1e9).round();
    // A float holds numbers of this size exactly.
    #[allow(clippy::cast_possible_truncation)]
    if nano.abs() < 9e18 { Ok(nano as i64) } else { Err(wrong()) }
}

/// `nofile=1024`, `nofile=1024:2048`, `core=-1`.
pub(crate) fn ulimit(text: &str) -> Result<ResourcesUlimits, String> {
    let (name, values) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    let known = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !known.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let value = |text: &str| text.parse::<i64>().map_err(|_| format!("invalid ulimit argument: {text}"));
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

/// `no`, `always`, `unless-stopped`, `on-failure`, `on-failure:3`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let name = match name {
        "" | "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        _ => {
            return Err(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ));
        }
    };
    let count = match count {
        None => 0,
        Some(count) => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(RestartPolicy { name: Some(name), maximum_retry_count: Some(count) })
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
            ("1 GiB", 1 << 30),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "-1m", "1x", "1 2m", "1e9g", "999999999t", "-1"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn processors_are_counted_in_thousand_millionths() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("0.000000001"), Ok(1));
        for bad in ["", "x", "1e30", "NaN"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ulimits_have_one_value_or_two() {
        let limit = |soft, hard| {
            Ok(ResourcesUlimits { name: Some("nofile".into()), soft: Some(soft), hard: Some(hard) })
        };
        assert_eq!(ulimit("nofile=10"), limit(10, 10));
        assert_eq!(ulimit("nofile=10:20"), limit(10, 20));
        assert_eq!(ulimit("nofile=-1"), limit(-1, -1));
        for bad in ["nofile", "nofile=", "nofile=a", "wings=1", "nofile=1:2:3", "nofile=2:1", "nofile=-1:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_have_names_and_counts() {
        let policy = restart("on-failure:3").unwrap();
        assert_eq!(
            (policy.name, policy.maximum_retry_count),
            (Some(RestartPolicyNameEnum::ON_FAILURE), Some(3))
        );
        assert!(restart("sometimes").is_err() && restart("on-failure:x").is_err());
    }
}
