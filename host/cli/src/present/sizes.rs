//! Sizes for people, as Docker prints them (docker/go-units).

/// Powers of 1000.
const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
/// Powers of 1024.
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `1.23MB`, with three digits: images, layers, traffic.
pub(crate) fn human(bytes: i64) -> String {
    decimal(bytes, 3)
}

/// `1.234MB`, with four digits: what was reclaimed.
pub(crate) fn human_exact(bytes: i64) -> String {
    decimal(bytes, 4)
}

fn decimal(bytes: i64, digits: usize) -> String {
    // Three digits are shown; a float holds fifteen.
    #[allow(clippy::cast_precision_loss)]
    scaled(bytes as f64, 1000.0, &DECIMAL, digits)
}

/// `1.234MiB`, with four digits: memory.
pub(crate) fn binary(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    scaled(bytes as f64, 1024.0, &BINARY, 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units.get(unit).copied().unwrap_or_default())
}

/// As C's `%.{digits}g` for numbers below a hundred thousand.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // The exponent after rounding to so many digits.
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let exponent: i32 = scientific.split('e').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let limit = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent >= limit {
        let mantissa = trimmed(scientific.split('e').next().unwrap_or_default());
        return format!("{mantissa}e+{exponent:02}");
    }
    let decimals = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_dockers_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (170_000_000, "170MB"),
            (12_345_678_901, "12.3GB"),
            (-5, "-5B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text, "{bytes}");
        }
        assert_eq!(human_exact(1_234_567), "1.235MB");
        assert_eq!(binary(1_234_567), "1.177MiB");
        assert_eq!(binary(512 << 20), "512MiB");
        // As Go's %g has it, and so docker.
        assert_eq!(human(999_950), "1e+03kB");
    }
}
