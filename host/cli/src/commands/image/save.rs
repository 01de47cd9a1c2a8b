//! `capsid save`.

use std::path::PathBuf;

use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::session::sink;

/// Flags and words of `save`.
#[derive(Debug, Args)]
pub(crate) struct SaveArguments {
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save only this platform's variant
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn save(arguments: &SaveArguments, call: &Call) -> Result<u8, Failure> {
    sink::refuse_terminal(arguments.output.as_deref(), "save")?;
    let client = call.connect().await?;
    let mut request = client.get("/images/get");
    for image in &arguments.images {
        request = request.query("names", image);
    }
    let answer = request.query_if("platform", arguments.platform.as_deref()).send().await?;
    sink::save(answer, arguments.output.as_deref()).await?;
    Ok(0)
}
