//! `capsid info`.

use std::fmt::Write as _;

use clap::Args;

use super::print_formatted;
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::sizes::binary;
use crate::present::value::Value;

/// Flags of `info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    /// 'json', or a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints what the daemon tells of itself and its machine.
pub(crate) async fn info(arguments: &InfoArguments, call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let info: Value = client.get("/info").send().await?.json().await?;
    match arguments.format.as_deref().filter(|format| !format.is_empty()) {
        Some(format) => print_formatted(&info, format)?,
        None => print(&describe(&info, &client.endpoint().to_string()))?,
    }
    for warning in info.get("Warnings").texts() {
        eprintln!("{warning}");
    }
    Ok(0)
}

fn describe(info: &Value, host: &str) -> String {
    let mut shown = format!(
        "Client: capsid\n Version:    {}\n Host:       {host}\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |indent: usize, name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(shown, "{:indent$}{name}: {value}", "");
        }
    };
    let number = |name: &str| info.get(name).number().to_string();
    line(1, "Containers", &number("Containers"));
    line(2, "Running", &number("ContainersRunning"));
    line(2, "Paused", &number("ContainersPaused"));
    line(2, "Stopped", &number("ContainersStopped"));
    line(1, "Images", &number("Images"));
    line(1, "Server Version", info.get("ServerVersion").text());
    line(1, "Storage Driver", info.get("Driver").text());
    for status in info.get("DriverStatus").list() {
        if let [name, value] = status.list() {
            line(2, name.text(), value.text());
        }
    }
    line(1, "Logging Driver", info.get("LoggingDriver").text());
    line(1, "Cgroup Driver", info.get("CgroupDriver").text());
    line(1, "Cgroup Version", info.get("CgroupVersion").text());
    let runtimes: Vec<&str> = info.get("Runtimes").fields().iter().map(|(name, _)| name.as_str()).collect();
    line(1, "Runtimes", &runtimes.join(" "));
    line(1, "Default Runtime", info.get("DefaultRuntime").text());
    let options: Vec<&str> = info.get("SecurityOptions").texts().collect();
    line(1, "Security Options", &options.join(" "));
    line(1, "Kernel Version", info.get("KernelVersion").text());
    line(1, "Operating System", info.get("OperatingSystem").text());
    line(1, "OSType", info.get("OSType").text());
    line(1, "Architecture", info.get("Architecture").text());
    line(1, "CPUs", &number("NCPU"));
    line(1, "Total Memory", &binary(u64::try_from(info.get("MemTotal").number()).unwrap_or(0)));
    line(1, "Name", info.get("Name").text());
    line(1, "ID", info.get("ID").text());
    line(1, "Docker Root Dir", info.get("DockerRootDir").text());
    line(1, "Live Restore Enabled", if info.get("LiveRestoreEnabled").is_true() { "true" } else { "false" });
    shown
}
