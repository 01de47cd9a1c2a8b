//! `capsid container prune`.

use capsid_api::client::Client;
use capsid_api::models::ContainerPruneResponse;
use clap::Args;

use crate::commands::Call;
use crate::commands::confirm::confirm;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::sizes::human_exact;
use crate::words::filters;

/// Flags of `container prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Remove those only for which it holds: NAME=VALUE
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn prune(arguments: &PruneArguments, call: &Call) -> Result<u8, Failure> {
    if !arguments.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(1);
    }
    let client = call.connect().await?;
    let (text, reclaimed) = remove(&client, &arguments.filter).await?;
    print(&format!("{text}Total reclaimed space: {}\n", human_exact(reclaimed)))?;
    Ok(0)
}

/// Removes them. What was removed as text, if anything was, and how much that was.
pub(crate) async fn remove(client: &Client, filter: &[String]) -> Result<(String, i64), Failure> {
    let filters = filters::document(filter).map_err(Failure::text)?;
    let request = client.post("/containers/prune").query_if("filters", filters);
    let removed: ContainerPruneResponse = request.send().await?.json().await?;
    let ids = removed.containers_deleted.unwrap_or_default();
    let text =
        if ids.is_empty() { String::new() } else { format!("Deleted Containers:\n{}\n\n", ids.join("\n")) };
    Ok((text, removed.space_reclaimed.unwrap_or(0)))
}
