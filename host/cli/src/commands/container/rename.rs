//! `capsid rename`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;

/// Words of `rename`.
#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    container: String,
    new_name: String,
}

pub(crate) async fn rename(arguments: &RenameArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let request = client.post(format!("/containers/{}/rename", segment(&arguments.container)));
    request.query("name", &arguments.new_name).send().await?;
    Ok(0)
}
