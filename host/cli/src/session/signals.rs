//! Signals to this process that are meant for the container's.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Numbers of x86-64 Linux (signal(7)). Those that a terminal or a supervisor sends; not SIGPIPE and SIGCHLD, which
/// concern this process, nor those that cannot be caught.
const FORWARDED: &[i32] = &[1, 2, 3, 10, 12, 14, 15, 18];
/// SIGWINCH, which is answered here: the terminal's new size is forwarded.
const WINDOW_CHANGED: i32 = 28;

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// A signal for the container.
    Signal(i32),
    /// The terminal has another size.
    WindowChanged,
}

/// Starts to catch; from here on the signals do nothing else to this process.
pub(crate) fn catch() -> io::Result<mpsc::UnboundedReceiver<Arrived>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in FORWARDED.iter().copied().chain([WINDOW_CHANGED]) {
        let mut signals = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        let arrived = if number == WINDOW_CHANGED { Arrived::WindowChanged } else { Arrived::Signal(number) };
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(arrived).is_ok() {} });
    }
    Ok(receiver)
}
