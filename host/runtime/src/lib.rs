//! Containers: from an image and a user's wishes to a process in a sandbox, and back to nothing.
//!
//! The runtime does not assume a daemon: what owns containers is the process that holds their state folder.

#![forbid(unsafe_code)]

pub mod agent;
pub mod artifacts;
pub mod container;
pub mod containers;
pub mod driver;
pub mod engine;
pub mod error;
pub mod events;
pub mod exec;
pub mod figures;
pub mod folders;
pub mod host;
pub mod lifecycle;
pub mod live;
pub mod logs;
pub mod monitor;
pub mod network;
pub mod open;
pub mod pump;
pub mod record;
pub mod run_folder;
pub mod sandbox;
pub mod spec;
pub mod streams;
pub mod timeline;
pub mod writable;
