//! `capsid rm`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::commands::each::each;
use crate::failure::{Failure, is_status};

/// Flags and words of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// Remove even if the container runs, which is killed
    #[arg(short, long)]
    force: bool,
    /// Remove the link
    #[arg(short, long)]
    link: bool,
    /// Remove the container's anonymous volumes
    #[arg(short, long)]
    volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes each; one that cannot be removed does not keep the others.
pub(crate) async fn remove(arguments: &RemoveArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let (force, link, volumes) = (arguments.force, arguments.link, arguments.volumes);
    each(&client, &arguments.containers, |client, name| async move {
        let request = client.delete(format!("/containers/{}", segment(name.trim_matches('/'))));
        let request = request.flag("force", force).flag("link", link).flag("v", volumes);
        match request.send().await {
            // What is to be gone by force may be gone.
            Err(error) if !(force && is_status(&error, 404)) => Err(error),
            _ => Ok(name),
        }
    })
    .await
}
