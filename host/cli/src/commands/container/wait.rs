//! `capsid wait`.

use capsid_api::client::segment;
use capsid_api::models::ContainerWaitResponse;
use clap::Args;

use crate::commands::Call;
use crate::commands::each::each;
use crate::failure::Failure;

/// Words of `wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArguments {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Prints the exit codes, in the order of the names.
pub(crate) async fn wait(arguments: &WaitArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    each(&client, &arguments.containers, |client, name| async move {
        let request = client.post(format!("/containers/{}/wait", segment(&name)));
        let answer: ContainerWaitResponse = request.send().await?.json().await?;
        Ok(answer.status_code.to_string())
    })
    .await
}
