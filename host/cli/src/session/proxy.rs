//! What reaches this process and is meant for the container's: signals, and the terminal's new sizes.

use std::sync::Arc;

use capsid_api::client::{Client, segment};

use super::signals::Arrived;
use super::terminal;

/// SIGHUP (signal(7)).
pub(crate) const HANG_UP: i32 = 1;
/// Those that end a process by default, and that a user or a supervisor sends for that: HUP, INT, QUIT, TERM.
const ENDING: [i32; 4] = [HANG_UP, 2, 3, 15];
/// What a signal's number is added to, for an exit code.
const SIGNALLED: i32 = 128;

/// Whether a signal is meant to end this process.
pub(crate) fn is_ending(signal: i32) -> bool {
    ENDING.contains(&signal)
}

/// The exit code of a process that such a signal ended.
pub(crate) fn code_of(signal: i32) -> u8 {
    u8::try_from(SIGNALLED + signal).unwrap_or(u8::MAX)
}

/// Where signals and sizes go.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    client: Arc<Client>,
    /// `/containers/ID` or `/exec/ID`.
    path: String,
    signals: bool,
    sizes: bool,
}

impl Proxy {
    /// For a container.
    pub(crate) fn of_container(client: &Arc<Client>, id: &str, signals: bool, sizes: bool) -> Proxy {
        Proxy { client: Arc::clone(client), path: format!("/containers/{}", segment(id)), signals, sizes }
    }

    /// For an exec, which has no way for signals.
    pub(crate) fn of_exec(client: &Arc<Client>, id: &str, sizes: bool) -> Proxy {
        Proxy { client: Arc::clone(client), path: format!("/exec/{}", segment(id)), signals: false, sizes }
    }

    /// Passes on what arrived. Nothing waits for it: a process that has just ended is no failure.
    pub(crate) fn pass(&self, arrived: Arrived) {
        let proxy = self.clone();
        match arrived {
            Arrived::Signal(signal) if self.signals => {
                tokio::spawn(async move { proxy.signal(signal).await });
            }
            Arrived::WindowChanged if self.sizes => {
                tokio::spawn(async move { proxy.resize().await });
            }
            Arrived::Signal(_) | Arrived::WindowChanged => {}
        }
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, signal: i32) {
        let request = self.client.post(format!("{}/kill", self.path)).query("signal", signal.to_string());
        let _ = request.send().await;
    }

    /// Tells the terminal's size.
    pub(crate) async fn resize(&self) {
        let Some(size) = terminal::size() else { return };
        let request = self.client.post(format!("{}/resize", self.path));
        let request = request.query("h", size.rows.to_string()).query("w", size.columns.to_string());
        let _ = request.send().await;
    }
}
