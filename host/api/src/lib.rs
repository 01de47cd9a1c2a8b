//! Docker's Engine API as capsid speaks it: what client and server must agree on, and the client. No behaviour: what a
//! container or an image is, the daemon knows.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
pub mod detach;
pub mod extensions;
pub mod frames;
pub mod socket;
#[cfg(feature = "tls")]
pub mod tls;
pub mod version;

/// The messages of the Engine API, generated from Docker's own description of it.
pub use bollard_stubs::models;
