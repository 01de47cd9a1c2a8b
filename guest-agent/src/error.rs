//! Steps that failed, and how they are told to the host.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use capsid_protocol::{ErrorCode, Refusal};

/// One step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct StepError {
    step: String,
    #[source]
    source: io::Error,
}

impl StepError {
    /// A step that failed with `source`.
    pub(crate) fn new(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { step: step.into(), source: source.into() }
    }
}

/// Says which step a failure belongs to.
pub(crate) trait Step<T> {
    /// `describe` reads as "failed to …" does: lower case, what and on what.
    fn step(self, describe: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, describe: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|source| StepError { step: describe(), source: source.into() })
    }
}

impl From<StepError> for Refusal {
    fn from(error: StepError) -> Self {
        Refusal { code: ErrorCode::Internal, message: chain(&error) }
    }
}

/// A refusal of that code.
pub(crate) fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// The message of an error and of everything below it.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        let _ = write!(text, ": {}", plain(source));
        below = source.source();
    }
    text
}

/// std adds "(os error 2)" to the kernel's words and begins them with a capital; runtimes for containers do neither.
fn plain(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => kernel_words(words),
        None => text,
    }
}

/// The kernel's words for an error, as Go programs print them: without a capital.
pub(crate) fn kernel_words(words: &str) -> String {
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// The words for an error number, e.g. `permission denied`.
pub(crate) fn describe(error: &io::Error) -> String {
    plain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_as_one_line_with_the_kernels_words_at_its_end() {
        let error = StepError::new("failed to mount /proc", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(chain(&error), "failed to mount /proc: permission denied");
    }
}
