//! What the two engines have in common, as the supervisor sees it.
//!
//! An engine builds its machine, starts it, and hands over a [`RunningMachine`]. It never talks to the launcher: the
//! control socket, the lifeline and the report are the supervisor's.

use std::os::fd::BorrowedFd;

use crate::control::EndCause;

/// Why a machine could not be built or did not do what was asked: printed with its whole chain of sources, and
/// never acted on by kind.
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;

/// A machine whose guest was started. Every method is called from the supervisor's one thread and must come back
/// without waiting for the guest.
pub trait RunningMachine {
    /// Becomes readable, and stays so, when the machine has ended by itself.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Why it ended; called once, after [`ended`](Self::ended) became readable.
    fn end_cause(&mut self) -> EndCause;

    /// Holds every processor; they are held when it returns. Nothing happens if they were.
    ///
    /// # Errors
    ///
    /// The engine did not answer; the machine's state is as it was, or it is about to end.
    fn pause(&mut self) -> Result<(), EngineError>;

    /// Lets the processors go on; nothing happens if they did.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    fn resume(&mut self) -> Result<(), EngineError>;

    /// Pulls the plug: no instruction of the guest runs after it returns. The process exits soon after.
    fn stop(&mut self);
}

/// An error with its sources, outermost first, on one line.
#[must_use]
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to load the kernel")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn describe_joins_the_chain() {
        let error = Outer(std::io::Error::other("no such sector"));
        assert_eq!(describe(&error), "failed to load the kernel: no such sector");
    }
}
