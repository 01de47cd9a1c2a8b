//! The daemon: Docker's Engine API in front of the runtime.
//!
//! ```text
//!  socket ─▶ server ─▶ routes ─▶ containers, exec, images, system ─▶ runtime
//! ```
//!
//! A table of routes, one module for each group of them; every error becomes a status and Docker's error shape in one
//! place ([`error`]). Clients are strangers: bodies, headers, lines and numbers of connections are capped.

#![forbid(unsafe_code)]
// The documents with every default are one macro each.
#![recursion_limit = "256"]

mod containers;
mod error;
mod exec;
mod filters;
mod hijack;
mod http;
mod images;
mod listen;
mod metrics;
mod names;
mod query;
mod routes;
mod server;
mod system;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
mod usage;
mod websocket;

pub use listen::TcpAddress;
pub use server::{Options, ServeError, serve};
