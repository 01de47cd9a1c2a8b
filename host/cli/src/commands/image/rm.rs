//! `capsid rmi`, also called `capsid image rm`.

use capsid_api::client::segment;
use capsid_api::models::ImageDeleteResponseItem;
use clap::Args;

use crate::commands::Call;
use crate::failure::{Failure, chain, is_status};
use crate::present::list::print;

/// Flags and words of `rmi`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Remove even if stopped containers use the image, or several names do
    #[arg(short, long)]
    force: bool,
    /// Keep parents that have no name
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes each, one after the other: removing one may remove the last use of another.
pub(crate) async fn remove(arguments: &RemoveArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let mut code = 0;
    for name in &arguments.images {
        let request = client.delete(format!("/images/{}", segment(name)));
        let request = request.flag("force", arguments.force).flag("noprune", arguments.no_prune);
        let removed: Vec<ImageDeleteResponseItem> = match request.send().await {
            Ok(answer) => answer.json().await?,
            Err(error) => {
                eprintln!("{}", chain(&error));
                // What is to be gone by force may be gone.
                if !(arguments.force && is_status(&error, 404)) {
                    code = 1;
                }
                continue;
            }
        };
        print(&lines(&removed))?;
    }
    Ok(code)
}

/// What was removed, a line each.
pub(super) fn lines(removed: &[ImageDeleteResponseItem]) -> String {
    let line = |item: &ImageDeleteResponseItem| match (&item.deleted, &item.untagged) {
        (Some(deleted), _) => format!("Deleted: {deleted}\n"),
        (None, Some(untagged)) => format!("Untagged: {untagged}\n"),
        (None, None) => String::new(),
    };
    removed.iter().map(line).collect()
}
