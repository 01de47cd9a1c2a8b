//! Verbs about images.

pub(crate) mod history;
pub(crate) mod layout;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod rm;
pub(crate) mod save;
pub(crate) mod tag;

use clap::Subcommand;

use super::{Call, system};
use crate::failure::Failure;

/// Verbs that stand alone and in the group.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Load images from an archive (OCI layout, oci-archive, docker-archive) or from standard input
    Load(load::LoadArguments),
    /// Save one or more images to a tar archive
    Save(save::SaveArguments),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(tag::TagArguments),
    /// Show the history of an image
    History(history::HistoryArguments),
}

/// Verbs of `capsid image`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    #[command(flatten)]
    Shared(Verb),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::ListArguments),
    /// Display detailed information on one or more images
    Inspect(system::inspect::OneKindArguments),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(rm::RemoveArguments),
    /// Remove unused images
    Prune(prune::PruneArguments),
}

pub(crate) async fn call(verb: Verb, call: &Call) -> Result<u8, Failure> {
    match verb {
        Verb::Load(arguments) => load::load(arguments, call).await,
        Verb::Save(arguments) => save::save(&arguments, call).await,
        Verb::Tag(arguments) => tag::tag(&arguments, call).await,
        Verb::History(arguments) => history::history(&arguments, call).await,
    }
}

pub(crate) async fn call_group(verb: GroupVerb, of: &Call) -> Result<u8, Failure> {
    match verb {
        GroupVerb::Shared(verb) => call(verb, of).await,
        GroupVerb::Ls(arguments) => ls::list(&arguments, of).await,
        GroupVerb::Inspect(arguments) => system::inspect::one_kind(&arguments, "image", of).await,
        GroupVerb::Rm(arguments) => rm::remove(&arguments, of).await,
        GroupVerb::Prune(arguments) => prune::prune(&arguments, of).await,
    }
}
