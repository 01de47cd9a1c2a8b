//! Verbs about containers.

pub(crate) mod attach;
pub(crate) mod config;
mod copy_plan;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod diff;
mod ending;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod flags;
mod foreground;
pub(crate) mod life;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod rename;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
mod stats_row;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use clap::Subcommand;

use super::{Call, system};
use crate::failure::Failure;

/// Verbs that stand alone and in the group.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create and run a new container from an image
    Run(Box<run::RunArguments>),
    /// Create a new container
    Create(Box<create::CreateArguments>),
    /// Start one or more stopped containers
    Start(start::StartArguments),
    /// Stop one or more running containers
    Stop(life::StopArguments),
    /// Kill one or more running containers
    Kill(life::KillArguments),
    /// Restart one or more containers
    Restart(life::StopArguments),
    /// Pause all processes within one or more containers
    Pause(life::NamesArguments),
    /// Unpause all processes within one or more containers
    Unpause(life::NamesArguments),
    /// Rename a container
    Rename(rename::RenameArguments),
    /// Update configuration of one or more containers
    Update(update::UpdateArguments),
    /// Block until one or more containers stop, then print their exit codes
    Wait(wait::WaitArguments),
    /// Attach local standard input, output, and error streams to a running container
    Attach(attach::AttachArguments),
    /// Execute a command in a running container
    Exec(exec::ExecArguments),
    /// Fetch the logs of a container
    Logs(logs::LogsArguments),
    /// Display the running processes of a container
    Top(top::TopArguments),
    /// Display a live stream of container(s) resource usage statistics
    Stats(stats::StatsArguments),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(diff::DiffArguments),
    /// Copy files/folders between a container and the local filesystem
    Cp(cp::CopyArguments),
    /// Export a container's filesystem as a tar archive
    Export(export::ExportArguments),
    /// List port mappings or a specific mapping for the container
    Port(port::PortArguments),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(rm::RemoveArguments),
}

/// Verbs of `capsid container`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    #[command(flatten)]
    Shared(Verb),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ls::ListArguments),
    /// Display detailed information on one or more containers
    Inspect(system::inspect::OneKindArguments),
    /// Remove all stopped containers
    Prune(prune::PruneArguments),
}

pub(crate) async fn call(verb: Verb, call: &Call) -> Result<u8, Failure> {
    match verb {
        Verb::Run(arguments) => run::run(*arguments, call).await,
        Verb::Create(arguments) => create::create(*arguments, call).await,
        Verb::Start(arguments) => start::start(&arguments, call).await,
        Verb::Stop(arguments) => life::stop(&arguments, "stop", call).await,
        Verb::Kill(arguments) => life::kill(&arguments, call).await,
        Verb::Restart(arguments) => life::stop(&arguments, "restart", call).await,
        Verb::Pause(arguments) => life::simple(&arguments, "pause", call).await,
        Verb::Unpause(arguments) => life::simple(&arguments, "unpause", call).await,
        Verb::Rename(arguments) => rename::rename(&arguments, call).await,
        Verb::Update(arguments) => update::update(&arguments, call).await,
        Verb::Wait(arguments) => wait::wait(&arguments, call).await,
        Verb::Attach(arguments) => attach::attach(&arguments, call).await,
        Verb::Exec(arguments) => exec::exec(&arguments, call).await,
        Verb::Logs(arguments) => logs::logs(&arguments, call).await,
        Verb::Top(arguments) => top::top(&arguments, call).await,
        Verb::Stats(arguments) => stats::stats(&arguments, call).await,
        Verb::Diff(arguments) => diff::diff(&arguments, call).await,
        Verb::Cp(arguments) => cp::copy(&arguments, call).await,
        Verb::Export(arguments) => export::export(&arguments, call).await,
        Verb::Port(arguments) => port::port(&arguments, call).await,
        Verb::Rm(arguments) => rm::remove(&arguments, call).await,
    }
}

pub(crate) async fn call_group(verb: GroupVerb, of: &Call) -> Result<u8, Failure> {
    match verb {
        GroupVerb::Shared(verb) => call(verb, of).await,
        GroupVerb::Ls(arguments) => ls::list(&arguments, of).await,
        GroupVerb::Inspect(arguments) => system::inspect::one_kind(&arguments, "container", of).await,
        GroupVerb::Prune(arguments) => prune::prune(&arguments, of).await,
    }
}
