//! `capsid-agent`: PID 1 of the guest. Prepares the container's root, runs its processes, and tells the host.
//!
//! One thread, no runtime. See [`server`] for the loop, [`container`] and [`launch`] for how a process comes to be.
#![deny(unsafe_code)]

mod boot;
mod cgroup;
mod container;
mod control;
mod credentials;
mod descriptors;
mod devices;
mod environment;
mod error;
mod files;
mod identity;
mod launch;
mod mounts;
mod netlink;
mod network;
mod observe;
mod openings;
mod overlay;
mod panic;
mod placeholders;
mod processes;
mod reaper;
mod requests;
mod root;
mod sandbox;
mod server;
mod small_init;
mod stdio;
mod streams;
mod sys;
#[cfg(test)]
mod tests;

use sandbox::Machine;
use server::Server;

pub(crate) use panic::{log, mark_as_child};

fn main() {
    let agent_start_us = boot::now_us();
    panic::install_hook();
    boot::harden();
    let listener = match boot::announce(agent_start_us) {
        Ok(listener) => listener,
        Err(error) => panic!("{}", error::chain(&error)),
    };
    if let Err(error) = boot::lay_groundwork() {
        panic!("{}", error::chain(&error));
    }
    Server::new(Machine::default(), Some(listener)).run();
    panic::end_machine();
}
