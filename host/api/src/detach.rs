//! The keys that end a session and leave the process running: the client looks for them on its terminal, the daemon in
//! what other clients send.

/// Docker's, unless something else is asked for.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";
/// Keys that a sequence has at most.
const MAX_KEYS: usize = 16;

/// Reads a sequence as `ctrl-a,b,ctrl-[`; `None` if it is none.
#[must_use]
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let keys: Option<Vec<u8>> = text.split(',').take(MAX_KEYS + 1).map(key).collect();
    keys.filter(|keys| keys.len() <= MAX_KEYS)
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        bytes => match bytes.strip_prefix(b"ctrl-")? {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            // The control characters beside the letters (ASCII).
            [sign] => b"@[\\]^_"
                .iter()
                .position(|known| known == sign)
                .and_then(|place| [0, 27, 28, 29, 30, 31].get(place).copied()),
            _ => None,
        },
    }
}

/// Looks for the keys in what is typed, however it is cut.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed so far.
    matched: usize,
}

impl DetachKeys {
    /// No keys are never found.
    #[must_use]
    pub fn new(keys: Vec<u8>) -> DetachKeys {
        DetachKeys { keys, matched: 0 }
    }

    /// What passes of `typed`, and whether the keys are complete; what follows them is dropped.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + self.matched);
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend(self.keys.iter().take(self.matched));
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        assert_eq!(parse(DEFAULT), Some(vec![16, 17]));
        assert_eq!(parse("a,ctrl-[,ctrl-@"), Some(vec![b'a', 27, 0]));
        for bad in ["", "ctrl-", "ctrl-A", "ab", "a,,b", "ctrl-p,ctrl-q,", &"a,".repeat(MAX_KEYS)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_keys_are_found_across_reads_and_everything_else_passes() {
        let mut keys = DetachKeys::new(vec![16, 17]);
        assert_eq!(keys.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11rest"), (Vec::new(), true));
        let mut none = DetachKeys::new(Vec::new());
        assert_eq!(none.pass(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
