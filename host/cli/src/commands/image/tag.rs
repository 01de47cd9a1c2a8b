//! `capsid tag`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::words::names::name_and_tag;

/// Words of `tag`.
#[derive(Debug, Args)]
pub(crate) struct TagArguments {
    #[arg(value_name = "SOURCE_IMAGE")]
    source: String,
    #[arg(value_name = "TARGET_IMAGE")]
    target: String,
}

pub(crate) async fn tag(arguments: &TagArguments, call: &Call) -> Result<u8, Failure> {
    if arguments.target.contains('@') {
        return Err(Failure::text("refusing to create a tag with a digest reference"));
    }
    let (name, tag) = name_and_tag(&arguments.target);
    let client = call.connect().await?;
    let request = client.post(format!("/images/{}/tag", segment(&arguments.source)));
    request.query("repo", name).query("tag", tag).send().await?;
    Ok(0)
}
