//! What a container must be like, whatever runs it: one body for every engine, by the command line that a user has.
//!
//! `CAPSID_TEST_ENGINE` says which engine; the emulated one works everywhere, KVM where /dev/kvm does.

mod client;
mod daemon;
mod failures;
mod files;
mod filesystem;
mod layers;
mod life;
mod limits;
mod machine;
mod network;
mod process;
mod protocol;
mod security;
mod streams;
mod terminal;
