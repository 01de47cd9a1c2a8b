//! A small virtual machine monitor: one process, one machine, given open descriptors and a validated
//! configuration.
//!
//! It never learns what a container is. Two engines stand behind one [`MachineConfig`]: KVM, which is ours, and an
//! emulator for machines without usable hardware virtualisation, which is handed the same devices over vhost-user.

pub mod boot;
pub mod bus;
pub mod config;
pub mod confine;
pub mod control;
pub mod devices;
pub mod emulated;
pub mod engine;
pub mod kvm;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod network;
pub mod observer;
pub mod parts;
pub mod probe;
pub mod supervisor;
pub mod vhost_user;

pub use config::{ConfigError, Engine, MachineConfig};
