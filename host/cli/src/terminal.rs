//! The user's terminal: its size, and raw mode while a container has it.

use std::io;

use capsid_protocol::TerminalSize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    isatty(stdin())
}

/// The size of the terminal, by output or else by input; 0 by 0 without one, as docker has it.
pub(crate) fn size() -> TerminalSize {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    size.map_or(TerminalSize { rows: 0, columns: 0 }, |size| TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Raw mode; dropping it gives the terminal back as it was.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts the terminal at standard input into raw mode.
    pub(crate) fn enter() -> io::Result<RawMode> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to give back.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
