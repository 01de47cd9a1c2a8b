//! Times for people, and times that people write.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// How long, in the words of Docker (docker/go-units, `HumanDuration`).
pub(crate) fn human(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Rounded, as there.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago a moment in seconds since 1970 was.
pub(crate) fn ago(then: i64) -> String {
    format!("{} ago", human(Timestamp::now().as_second().saturating_sub(then)))
}

/// A moment in seconds since 1970, as Go's `Time.String` writes it.
pub(crate) fn go_time(seconds: i64) -> String {
    let Ok(moment) = Timestamp::from_second(seconds) else { return String::new() };
    moment.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// A moment as Docker's events begin with: nanoseconds and the offset.
pub(crate) fn event_time(nanoseconds: i128) -> String {
    let Ok(moment) = Timestamp::from_nanosecond(nanoseconds) else { return String::new() };
    let zoned = moment.to_zoned_datetime(TimeZone::system());
    let offset =
        if zoned.offset() == Offset::UTC { "%Y-%m-%dT%H:%M:%S.%9fZ" } else { "%Y-%m-%dT%H:%M:%S.%9f%:z" };
    zoned.strftime(offset).to_string()
}

/// A moment that a person gave, as the API takes it: `10m` ago, a date with or without its time, or seconds since 1970.
pub(crate) fn moment(text: &str) -> Result<String, String> {
    if text != "0"
        && let Ok(nanoseconds) = duration(text)
    {
        let then = Timestamp::now().as_nanosecond().saturating_sub(nanoseconds.into());
        return Ok(seconds_and_nanoseconds(then));
    }
    let number = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !number.0.is_empty() && digits(number.0) && digits(number.1) {
        return Ok(text.to_owned());
    }
    let moment = date(text).ok_or_else(|| format!("failed to parse value as time or duration: {text:?}"))?;
    Ok(seconds_and_nanoseconds(moment.as_nanosecond()))
}

fn date(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    let (local, zone) = match text.strip_suffix('Z') {
        Some(local) => (local, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    // Docker takes hours, and hours with minutes, too.
    let hours = local.split_once('T').map_or("", |(_, time)| time);
    let filled = match hours.len() {
        2 => format!("{local}:00:00"),
        5 => format!("{local}:00"),
        _ => local.to_owned(),
    };
    let moment = filled
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| filled.parse::<jiff::civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    moment.ok()?.to_zoned_datetime(zone).ok().map(|zoned| zoned.timestamp())
}

fn seconds_and_nanoseconds(nanoseconds: i128) -> String {
    format!("{}.{:09}", nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000))
}

/// A length of time as Go writes it, in nanoseconds: `1h30m`, `1.5s`, `200ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = after;
    }
    if text.starts_with('-') {
        total = -total;
    }
    // Within 292 years, which is all that Go has.
    #[allow(clippy::cast_possible_truncation)]
    if total.abs() < 9.2e18 { Ok(total.round() as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_told_in_dockers_words() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 15, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(human(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("200ms", 200_000_000),
            ("1.5s", 1_500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-1s", -1_000_000_000),
        ] {
            assert_eq!(duration(text), Ok(nanoseconds), "{text}");
        }
        for bad in ["", "5", "s", "1x", "1s2", "-", "1e9s", "99999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_dates_numbers_or_lengths_of_time_before_now() {
        assert_eq!(moment("1700000000").unwrap(), "1700000000");
        assert_eq!(moment("1700000000.5").unwrap(), "1700000000.5");
        assert_eq!(moment("2024-01-02T03:04:05Z").unwrap(), "1704164645.000000000");
        assert_eq!(moment("2024-01-02T03:04:05.25+01:00").unwrap(), "1704161045.250000000");
        assert_eq!(moment("2024-01-02T03:04Z").unwrap(), "1704164640.000000000");
        let hour_ago: f64 = moment("1h").unwrap().parse().unwrap();
        #[allow(clippy::cast_precision_loss)]
        let now = Timestamp::now().as_second() as f64;
        assert!((3590.0..3610.0).contains(&(now - hour_ago)));
        assert!(moment("yesterday").is_err());
    }
}
