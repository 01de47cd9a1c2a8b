//! A container's files, for `docker cp`, `docker diff` and `docker export`: the host never reads a file system that a
//! guest wrote, so all of it happens here.
//!
//! ```text
//!  server ── forks, at most MAX_WORKERS at once ──▶ worker ── pack    tree → archive
//!     ▲                                                    ├─ unpack  archive → tree
//!     └── reaps; kills at the machine's end                └─ changes writable layer → list
//! ```
//!
//! What clients see of a container is one tree, taken when its root was prepared: the root, the files that the agent
//! mounts in it, and its tmpfs. Nothing that the container mounts later appears there, nor do /proc, /sys and /dev:
//! no file system that could make a worker wait for a process of the container.

mod attributes;
mod changes;
mod error;
mod folder_times;
mod listing;
mod pack;
mod paths;
mod remove;
#[cfg(test)]
mod tests;
mod unpack;
mod worker;

use std::os::fd::AsFd;

use capsid_protocol::{ErrorCode, FilesWork, OpeningReply};

use crate::control::Newcomer;
use crate::error::refusal;
use crate::sandbox::Sandbox;
use crate::server::Server;

pub(crate) use worker::{Trees, serve};

/// Works under way at once; what the host asks for beyond it is refused.
const MAX_WORKERS: usize = 16;

impl<S: Sandbox> Server<S> {
    /// Gives a connection to a worker, which answers the opening.
    pub(crate) fn accept_files(&mut self, newcomer: Newcomer, work: &FilesWork, early: &[u8]) {
        let started = if self.closing.is_some() {
            Err(refusal(ErrorCode::InvalidState, "the machine is shutting down"))
        } else if self.reaper.workers() >= MAX_WORKERS {
            Err(refusal(ErrorCode::InvalidState, format!("{MAX_WORKERS} works on files are under way")))
        } else {
            self.sandbox.work_on_files(work, newcomer.descriptor().as_fd(), early)
        };
        match started {
            Ok(child) => self.reaper.watch_worker(child),
            Err(refusal) => drop(newcomer.reply(&OpeningReply::Refused(refusal))),
        }
    }
}
