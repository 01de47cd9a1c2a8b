//! The times of entries: RFC 3339 with nine digits, each later than the one before it.
//!
//! Docker drops trailing zeros. With all nine digits the text sorts as the time does, and readers of both forms are the
//! same readers.

use jiff::Timestamp;

/// `2026-11-24T08:00:00.123456789Z`
pub(super) const STAMP_BYTES: usize = 30;
/// Where the nine digits are.
const NANOSECONDS: std::ops::Range<usize> = 20..29;
/// How far the clock may step back before the log follows it rather than going on from its last time.
const MAX_DISORDER_NS: i64 = 1_000_000_000;
const NS_PER_SECOND: i64 = 1_000_000_000;

/// Nanoseconds since 1970 by the system's clock. Good until the year 2262.
pub(super) fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Hands out times, and their text.
#[derive(Debug)]
pub(super) struct Stamps {
    last_ns: i64,
    text: [u8; STAMP_BYTES],
}

impl Stamps {
    /// Times after `last_ns`.
    pub(super) fn after(last_ns: i64) -> Stamps {
        Stamps { last_ns, text: stamp_text(last_ns) }
    }

    pub(super) fn last_ns(&self) -> i64 {
        self.last_ns
    }

    /// Whether the clock stepped back so far that the times will not be in order.
    pub(super) fn is_disorder(&self, now_ns: i64) -> bool {
        now_ns < self.last_ns.saturating_sub(MAX_DISORDER_NS)
    }

    /// The time of an entry that is written at `now_ns`: that, or one nanosecond after the entry before. So a client
    /// that asks again from the last time it saw gets no entry twice and misses none.
    pub(super) fn next(&mut self, now_ns: i64) -> &[u8; STAMP_BYTES] {
        let following = self.last_ns.saturating_add(1);
        if now_ns > following || self.is_disorder(now_ns) {
            self.set(now_ns);
        } else if !self.increment() {
            self.set(following);
        } else {
            self.last_ns = following;
        }
        &self.text
    }

    fn set(&mut self, time_ns: i64) {
        if time_ns.div_euclid(NS_PER_SECOND) == self.last_ns.div_euclid(NS_PER_SECOND) {
            write_nanoseconds(&mut self.text, time_ns);
        } else {
            self.text = stamp_text(time_ns);
        }
        self.last_ns = time_ns;
    }

    /// Adds a nanosecond to the text. False, with the text spoilt, when that is a new second.
    fn increment(&mut self) -> bool {
        for digit in self.text[NANOSECONDS].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return true;
            }
            *digit = b'0';
        }
        false
    }
}

/// A time with nine digits.
pub(super) fn stamp_text(time_ns: i64) -> [u8; STAMP_BYTES] {
    let mut text = *b"1970-01-01T00:00:00.000000000Z";
    if let Ok(second) = Timestamp::from_second(time_ns.div_euclid(NS_PER_SECOND)) {
        let date = second.to_string();
        let length = date.len().min(19);
        text[..length].copy_from_slice(&date.as_bytes()[..length]);
    }
    write_nanoseconds(&mut text, time_ns);
    text
}

fn write_nanoseconds(text: &mut [u8; STAMP_BYTES], time_ns: i64) {
    let mut left = time_ns.rem_euclid(NS_PER_SECOND);
    for digit in text[NANOSECONDS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn times_grow_by_a_nanosecond_within_a_moment() {
        let mut stamps = Stamps::after(0);
        let now = 1_795_507_200_999_999_998;
        assert_eq!(text(stamps.next(now)), "2026-11-24T08:00:00.999999998Z");
        assert_eq!(text(stamps.next(now)), "2026-11-24T08:00:00.999999999Z");
        assert_eq!(text(stamps.next(now)), "2026-11-24T08:00:01.000000000Z");
        assert_eq!(text(stamps.next(now)), "2026-11-24T08:00:01.000000001Z");
        assert_eq!(text(stamps.next(now + 2_000_000_005)), "2026-11-24T08:00:03.000000003Z");
    }

    #[test]
    fn a_small_step_back_goes_on_and_a_large_one_is_followed() {
        let mut stamps = Stamps::after(1_795_507_200_000_000_000);
        assert_eq!(text(stamps.next(1_795_507_199_500_000_000)), "2026-11-24T08:00:00.000000001Z");
        assert!(stamps.is_disorder(1_795_507_198_000_000_000));
        assert_eq!(text(stamps.next(1_795_507_198_000_000_000)), "2026-11-24T07:59:58.000000000Z");
    }

    #[test]
    fn times_agree_with_jiff() {
        for time_ns in [0, 1, -1, 999_999_999, 1_795_507_200_123_456_789, -62_135_596_800_000_000, i64::MAX] {
            let expected = format!("{:.9}", Timestamp::from_nanosecond(i128::from(time_ns)).unwrap());
            assert_eq!(text(&stamp_text(time_ns)), expected);
        }
    }
}
