//! `capsid daemon`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use crate::connection::daemon_program;
use crate::failure::Failure;

/// Words of `daemon`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DaemonArguments {
    /// Flags of capsidd
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Becomes the daemon; returns when that fails.
pub(crate) fn run(arguments: &DaemonArguments) -> Failure {
    let Some(program) = daemon_program() else {
        return Failure::text("the daemon's program 'capsidd' is neither beside this one nor in PATH");
    };
    let error = Command::new(&program).args(&arguments.flags).exec();
    Failure::text(format!("failed to start {}: {error}", program.display()))
}
