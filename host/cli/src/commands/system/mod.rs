//! Verbs about everything that the daemon has.

pub(crate) mod df;
pub(crate) mod events;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod prune;
pub(crate) mod version;

use clap::Subcommand;

use super::Call;
use crate::failure::Failure;
use crate::present::list::{print, unescape};
use crate::present::template::Template;
use crate::present::value::Value;

/// Verbs that stand alone and in the group.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Display system-wide information
    Info(info::InfoArguments),
    /// Get real time events from the daemon
    Events(events::EventsArguments),
}

/// Verbs of `capsid system`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    #[command(flatten)]
    Shared(Verb),
    /// Show disk usage
    Df(df::UsageArguments),
    /// Remove unused data
    Prune(prune::PruneArguments),
}

pub(crate) async fn call(verb: Verb, call: &Call) -> Result<u8, Failure> {
    match verb {
        Verb::Info(arguments) => info::info(&arguments, call).await,
        Verb::Events(arguments) => events::events(&arguments, call).await,
    }
}

pub(crate) async fn call_group(verb: GroupVerb, of: &Call) -> Result<u8, Failure> {
    match verb {
        GroupVerb::Shared(verb) => call(verb, of).await,
        GroupVerb::Df(arguments) => df::usage(&arguments, of).await,
        GroupVerb::Prune(arguments) => prune::prune(&arguments, of).await,
    }
}

/// One document in the form that `--format` asks for.
fn formatted(document: &Value, format: &str) -> Result<String, Failure> {
    let format = unescape(format);
    if format == "json" {
        return Ok(document.to_json());
    }
    Ok(Template::parse(&format)?.of(document)?)
}

/// Prints one document in the form that `--format` asks for.
fn print_formatted(document: &Value, format: &str) -> Result<(), Failure> {
    Ok(print(&format!("{}\n", formatted(document, format)?))?)
}
