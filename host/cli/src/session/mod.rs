//! This process's standard streams, terminal and signals, while a container's process has them.

pub(crate) mod detach;
pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod proxy;
pub(crate) mod signals;
pub(crate) mod sink;
pub(crate) mod terminal;
pub(crate) mod timings;

use std::io;

use capsid_api::client::Upgraded;

use self::input::Input;
use self::output::Output;
use self::terminal::RawMode;

/// What is connected to what.
#[derive(Debug, Clone)]
pub(crate) struct Wiring {
    /// Whether the container's process has a terminal: one stream, and no frames.
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// The keys that end the session and not the process.
    pub(crate) detach_keys: Vec<u8>,
}

/// A session under way.
#[derive(Debug)]
pub(crate) struct Session {
    output: Output,
    input: Option<Input>,
    /// Dropped before anything is printed.
    raw: Option<RawMode>,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The other side closed it.
    Over,
    /// The user gave the keys.
    Detached,
    /// Nobody reads this process's output any more.
    OutputClosed,
    /// The output cannot be written, or the connection broke.
    Failed(io::Error),
}

impl Session {
    /// Starts to copy.
    pub(crate) fn start(stream: Upgraded, wiring: &Wiring) -> io::Result<Session> {
        let raw = if wiring.terminal && wiring.stdin && terminal::input_is_terminal() {
            Some(RawMode::enter()?)
        } else {
            None
        };
        let output = Output::start(stream.receiver, wiring)?;
        let input = if wiring.stdin { Some(Input::start(stream.sender, wiring)?) } else { None };
        Ok(Session { output, input, raw })
    }

    /// Waits for the end. Dropping the future loses nothing.
    pub(crate) async fn end(&mut self) -> SessionEnd {
        let detached = async {
            match &mut self.input {
                Some(input) => input.detached().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.output.end() => match ended {
                Ok(()) => SessionEnd::Over,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => SessionEnd::OutputClosed,
                Err(error) => SessionEnd::Failed(error),
            },
            () = detached => SessionEnd::Detached,
        }
    }

    /// Gives the terminal back.
    pub(crate) fn release_terminal(&mut self) {
        self.raw = None;
    }

    /// When the first byte of output came, in microseconds of the host's clock.
    pub(crate) fn first_byte_us(&self) -> Option<u64> {
        self.output.first_byte_us()
    }
}
