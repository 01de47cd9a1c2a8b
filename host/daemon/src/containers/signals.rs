//! Signals by their names and numbers, as Docker reads them (moby, `signal.ParseSignal`).

use crate::error::{ApiError, Result};

/// Signals by their number in Linux on x86-64 (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signal, as glibc numbers them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Other names of signals (signal(7)).
fn alias(name: &str) -> Option<i32> {
    match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => None,
    }
}

/// `15`, `TERM`, `SIGTERM`, `RTMIN+3`.
pub(crate) fn signal_number(text: &str) -> Result<i32> {
    let invalid = || ApiError::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        let valid = (1..=31).contains(&number) || REAL_TIME.contains(&number);
        let unsupported = || ApiError::invalid(format!("the linux daemon does not support signal {number}"));
        return if valid { Ok(number) } else { Err(unsupported()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).map_err(|_| invalid());
    }
    if let Some(number) = alias(name) {
        return Ok(number);
    }
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(*REAL_TIME.start()),
        (_, Some("")) => Some(*REAL_TIME.end()),
        (Some(plus), _) => plus
            .strip_prefix('+')
            .and_then(|n| n.parse::<i32>().ok())
            .and_then(|n| REAL_TIME.start().checked_add(n)),
        (_, Some(minus)) => minus
            .strip_prefix('-')
            .and_then(|n| n.parse::<i32>().ok())
            .and_then(|n| REAL_TIME.end().checked_sub(n)),
        (None, None) => None,
    };
    real_time.filter(|number| REAL_TIME.contains(number)).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("15", 15), ("TERM", 15), ("sigkill", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("WINCH", 28)]
        {
            assert_eq!(signal_number(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-1", "NOPE", "RTMIN+99", "32", "RTMIN+-2147483648"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
