//! `capsid image prune`.

use capsid_api::client::{Client, ClientError};
use capsid_api::models::ImagePruneResponse;
use clap::Args;

use super::rm::lines;
use crate::commands::Call;
use crate::commands::confirm::confirm;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::sizes::human_exact;
use crate::words::filters;

/// Flags of `image prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Remove all unused images, not just those without a name
    #[arg(short, long)]
    all: bool,
    /// Remove those only for which it holds: NAME=VALUE
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn prune(arguments: &PruneArguments, call: &Call) -> Result<u8, Failure> {
    let warning = if arguments.all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !arguments.force && !confirm(warning)? {
        return Ok(1);
    }
    let client = call.connect().await?;
    let (text, reclaimed) = remove(&client, arguments.all, &arguments.filter).await?;
    print(&format!("{text}Total reclaimed space: {}\n", human_exact(reclaimed)))?;
    Ok(0)
}

/// Removes them. What was removed as text, if anything was, and how much that was.
pub(crate) async fn remove(client: &Client, all: bool, filter: &[String]) -> Result<(String, i64), Failure> {
    let mut filter = filter.to_vec();
    filter.push(format!("dangling={}", !all));
    let filters = filters::document(&filter).map_err(Failure::text)?;
    let removed: Result<ImagePruneResponse, ClientError> =
        client.post("/images/prune").query_if("filters", filters).send().await?.json().await;
    let removed = removed?;
    let items = removed.images_deleted.unwrap_or_default();
    // Docker says `untagged:` here, and `Untagged:` elsewhere.
    let lines = lines(&items).replace("Deleted: ", "deleted: ").replace("Untagged: ", "untagged: ");
    let text = if items.is_empty() { String::new() } else { format!("Deleted Images:\n{lines}\n") };
    Ok((text, removed.space_reclaimed.unwrap_or(0)))
}
