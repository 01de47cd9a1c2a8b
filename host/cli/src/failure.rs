//! What a failed call prints and exits with. The exit code comes from the error's type.

use std::process::ExitCode;

use capsid_protocol::ErrorCode;
use capsid_runtime::sandbox::SandboxError;

/// Of `run`: the failure is ours (docker run(1), "Exit status").
pub(crate) const OUR_FAILURE: u8 = 125;
/// Of `run`: the program cannot be invoked.
const NOT_EXECUTABLE: u8 = 126;
/// Of `run`: the program is not there.
const NOT_FOUND: u8 = 127;
/// Of every other verb.
const VERB_FAILED: u8 = 1;

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure that exits with `code`; the whole chain of `error` is printed.
    pub(crate) fn with_code(code: u8, error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure { code, message: chain(error) }
    }

    /// A failure of `run` that is ours.
    pub(crate) fn of_run(error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure::with_code(OUR_FAILURE, error)
    }

    /// A failure of `run` with a message that is whole in itself.
    pub(crate) fn of_run_text(message: impl Into<String>) -> Failure {
        Failure { code: OUR_FAILURE, message: message.into() }
    }

    /// A failure of `run` with an exit code of its own.
    pub(crate) fn of_run_code(code: u8, message: String) -> Failure {
        Failure { code, message }
    }

    /// The same failure, met by `run`.
    pub(crate) fn into_run(self) -> Failure {
        Failure { code: OUR_FAILURE, ..self }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// What is said.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// A failure of `run` in the sandbox: the agent's reason decides.
    pub(crate) fn of_sandbox(error: &SandboxError) -> Failure {
        let code = match error {
            SandboxError::Agent { source, .. } => match source.code() {
                Some(ErrorCode::CommandNotFound) => NOT_FOUND,
                Some(ErrorCode::CommandNotExecutable) => NOT_EXECUTABLE,
                _ => OUR_FAILURE,
            },
            _ => OUR_FAILURE,
        };
        Failure::with_code(code, error)
    }

    /// A failure with a message that is whole in itself, of a verb other than `run`.
    pub(crate) fn text(message: impl Into<String>) -> Failure {
        Failure { code: VERB_FAILED, message: message.into() }
    }

    /// Says it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("capsid: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::with_code(VERB_FAILED, &error)
    }
}

/// The messages of an error and of its sources, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent error repeats its source's words.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Help and version are no failures; a wrong call of `run` is ours, as docker has it.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // When the terminal is gone there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(OUR_FAILURE) } else { ExitCode::SUCCESS }
}
