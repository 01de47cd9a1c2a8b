//! `capsid port`.

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::value::Value;
use crate::words::ports;

/// Words of `port`.
#[derive(Debug, Args)]
pub(crate) struct PortArguments {
    container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

/// Prints where ports are published, a line each.
pub(crate) async fn port(arguments: &PortArguments, call: &Call) -> Result<u8, Failure> {
    let wanted = arguments.port.as_deref().map(ports::exposed).transpose().map_err(Failure::text)?;
    let client = call.connect().await?;
    let request = client.get(format!("/containers/{}/json", segment(&arguments.container)));
    let document: Value = request.send().await?.json().await?;
    let mut lines = Vec::new();
    for (port, bindings) in document.at(&["NetworkSettings", "Ports"]).fields() {
        for binding in bindings.list() {
            let (address, number) = (binding.get("HostIp").text(), binding.get("HostPort").text());
            let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            match &wanted {
                None => lines.push(format!("{port} -> {address}:{number}\n")),
                Some(wanted) if wanted == port => lines.push(format!("{address}:{number}\n")),
                Some(_) => {}
            }
        }
    }
    if let Some(wanted) = wanted
        && lines.is_empty()
    {
        return Err(Failure::text(format!(
            "no public port '{wanted}' published for {}",
            arguments.container
        )));
    }
    lines.sort();
    print(&lines.concat())?;
    Ok(0)
}
