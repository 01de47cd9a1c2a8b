//! `capsid`: containers, each in a virtual machine of its own, by the verbs and flags of `docker`.
//!
//! A client of the Engine API like any other: each verb parses, calls and prints. What there is to decide, the daemon
//! decides, which is started when it does not run.

#![forbid(unsafe_code)]

mod archive;
mod commands;
mod connection;
mod failure;
mod options;
mod present;
mod session;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::options::Arguments;

fn main() -> ExitCode {
    let started = session::timings::now_us();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::report_usage(&error),
    };
    match commands::call(arguments, started) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}
