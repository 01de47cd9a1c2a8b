//! `capsid top`.

use capsid_api::client::segment;
use capsid_api::models::ContainerTopResponse;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::table::lay_out;

/// Words of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    container: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

pub(crate) async fn top(arguments: &TopArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let options = (!arguments.options.is_empty()).then(|| arguments.options.join(" "));
    let request = client.get(format!("/containers/{}/top", segment(&arguments.container)));
    let processes: ContainerTopResponse = request.query_if("ps_args", options).send().await?.json().await?;
    let rows =
        std::iter::once(processes.titles.unwrap_or_default()).chain(processes.processes.unwrap_or_default());
    print(&lay_out(&rows.map(|row| row.join("\t")).collect::<Vec<_>>()))?;
    Ok(0)
}
