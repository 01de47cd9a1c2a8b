//! Docker's Engine API as capsid speaks it: what client and server must agree on, and no behaviour.

#![forbid(unsafe_code)]

pub mod frames;
pub mod version;

/// The messages of the Engine API, generated from Docker's own description of it.
pub use bollard_stubs::models;
