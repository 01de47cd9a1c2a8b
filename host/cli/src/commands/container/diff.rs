//! `capsid diff`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::value::Value;

/// Words of `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    container: String,
}

/// Prints a line for each change: C, A or D, and the path.
pub(crate) async fn diff(arguments: &DiffArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let request = client.get(format!("/containers/{}/changes", segment(&arguments.container)));
    // No changes at all are `null`.
    let changes: Value = request.send().await?.json().await?;
    let line = |change: &Value| {
        let kind = match change.get("Kind").number() {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        format!("{kind} {}\n", change.get("Path").text())
    };
    print(&changes.list().iter().map(line).collect::<String>())?;
    Ok(0)
}
