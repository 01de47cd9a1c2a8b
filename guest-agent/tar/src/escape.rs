//! Names from strangers, made safe to print.

use std::fmt;

/// How much of a name is shown before it is cut.
const MAX_SHOWN: usize = 200;

/// Bytes shown with everything but plain ASCII escaped, and cut when long: control sequences in a file name
/// must not reach a terminal or a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EscapedName(Vec<u8>);

impl EscapedName {
    /// Keeps `name` for showing.
    pub fn new(name: &[u8]) -> EscapedName {
        EscapedName(name.to_vec())
    }

    /// The name as it was.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EscapedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(MAX_SHOWN)];
        write!(formatter, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() {
            write!(formatter, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_do_not_survive() {
        assert_eq!(EscapedName::new(b"a\x1b[31m\xff").to_string(), "\"a\\x1b[31m\\xff\"");
        assert!(EscapedName::new(&[b'a'; 5000]).to_string().len() < 300);
    }
}
