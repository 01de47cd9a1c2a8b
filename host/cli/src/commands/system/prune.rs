//! `capsid system prune`.

use clap::Args;

use crate::commands::confirm::confirm;
use crate::commands::{Call, container, image};
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::sizes::human_exact;

/// Flags of `system prune`.
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
    let images = if arguments.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let warning = format!("WARNING! This will remove:\n  - all stopped containers\n  - {images}\n");
    if !arguments.force && !confirm(&warning)? {
        return Ok(1);
    }
    let client = call.connect().await?;
    let (containers, of_containers) = container::prune::remove(&client, &arguments.filter).await?;
    let (images, of_images) = image::prune::remove(&client, arguments.all, &arguments.filter).await?;
    let reclaimed = human_exact(of_containers.saturating_add(of_images));
    print(&format!("{containers}{images}Total reclaimed space: {reclaimed}\n"))?;
    Ok(0)
}
