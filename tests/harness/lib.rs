//! What the conformance tests stand on: the built programs, one engine, one store of images for all tests of a
//! process, and calls of `capsid` that end in time and say everything when they fail.

#![forbid(unsafe_code)]

mod call;
mod daemon;
mod home;
mod host;
pub mod outside;
mod processes;
mod terminal;

pub use call::{Call, Finished, Running};
pub use daemon::{Daemon, Refusal};
pub use home::Home;
pub use host::{Host, host};
pub use processes::processes_in;
pub use terminal::TerminalCall;
