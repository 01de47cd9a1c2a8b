//! `capsid export`.

use std::path::PathBuf;

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::session::sink;

/// Flags and words of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    container: String,
}

pub(crate) async fn export(arguments: &ExportArguments, call: &Call) -> Result<u8, Failure> {
    sink::refuse_terminal(arguments.output.as_deref(), "save")?;
    let client = call.connect().await?;
    let answer = client.get(format!("/containers/{}/export", segment(&arguments.container))).send().await?;
    sink::save(answer, arguments.output.as_deref()).await?;
    Ok(0)
}
