//! What a failed call prints and exits with.

use std::process::ExitCode;

use capsid_api::client::ClientError;

/// Of `run` and `create`, and of every wrong call: the failure is not the container's (docker run(1), "Exit status").
pub(crate) const OUR_FAILURE: u8 = 125;
/// Of `run`: the program cannot be invoked.
const NOT_EXECUTABLE: u8 = 126;
/// Of `run`: the program is not there.
const NOT_FOUND: u8 = 127;
/// Of every other verb.
const VERB_FAILED: u8 = 1;
/// How messages of the daemon begin.
const OF_DAEMON: &str = "Error response from daemon: ";

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure with a message that is whole in itself.
    pub(crate) fn text(message: impl Into<String>) -> Failure {
        Failure { code: VERB_FAILED, message: message.into() }
    }

    /// Nothing to say: everything was said.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure { code, message: String::new() }
    }

    /// The same with an exit code of its own.
    pub(crate) fn with_code(self, code: u8) -> Failure {
        Failure { code, ..self }
    }

    /// The same, met by `verb`, which is `run` or `create`: their failures are told from the container's.
    pub(crate) fn of_verb(self, verb: &str) -> Failure {
        let message = format!("capsid: {}\n\nRun 'capsid {verb} --help' for more information", self.message);
        Failure { code: OUR_FAILURE, message }
    }

    /// A container that did not start: the code is a shell's, where the reason is.
    pub(crate) fn of_start(self, verb: &str) -> Failure {
        let code = start_code(&self.message);
        self.of_verb(verb).with_code(code)
    }

    /// Says it on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("{}", self.message);
        }
        ExitCode::from(self.code)
    }
}

/// As `docker run` tells it (docker/cli, `toStatusError`): there is no code in the API for it.
fn start_code(message: &str) -> u8 {
    let reason = message.strip_prefix(OF_DAEMON).unwrap_or(message).to_lowercase();
    let holds = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    // What the daemon itself cannot find is no program of the container's.
    if !holds(&["exec: ", "the container's process", "oci runtime"]) {
        OUR_FAILURE
    } else if holds(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file",
    ]) {
        NOT_FOUND
    } else if holds(&["permission denied", "is a directory", "exec format error"]) {
        NOT_EXECUTABLE
    } else {
        OUR_FAILURE
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::text(chain(&error))
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

/// Whether the daemon refused with that status.
pub(crate) fn is_status(error: &ClientError, status: u16) -> bool {
    error.status().is_some_and(|code| code.as_u16() == status)
}

/// Help and version are no failures; a wrong call is, as docker has it.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // When the terminal is gone there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(OUR_FAILURE) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_did_not_start_for_decides_the_code() {
        for (message, code) in [
            ("failed to start the container's process: exec: \"x\": executable file not found in $PATH", 127),
            (
                "failed to start the container's process: exec: \"/x\": stat /x: no such file or directory",
                127,
            ),
            ("failed to start the container's process: exec: \"/etc/passwd\": permission denied", 126),
            ("failed to start the container's process: exec: \"/etc\": is a directory", 126),
            ("KVM cannot be used here: /dev/kvm: permission denied", 125),
            ("Minimum memory limit allowed is 6MB", 125),
        ] {
            assert_eq!(start_code(&format!("{OF_DAEMON}{message}")), code, "{message}");
        }
    }
}
