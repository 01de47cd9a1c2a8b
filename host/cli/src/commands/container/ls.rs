//! `capsid ps`, also called `capsid container ls`.

use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::{Form, Kind, Row, print};
use crate::present::table::{ellipsis, short_id};
use crate::present::template::quote;
use crate::present::value::Value;
use crate::present::{sizes, times};
use crate::words::filters;

/// Longest command that is shown, in characters.
const COMMAND_CHARACTERS: usize = 20;

const KIND: Kind = Kind {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    headings: HEADINGS,
    quiet: "{{.ID}}",
};
const WITH_SIZE: Kind = Kind {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..KIND
};
const HEADINGS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Platform", "PLATFORM"),
];

/// Flags of `ps`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Show all containers, not just those that run
    #[arg(short, long)]
    all: bool,
    /// Show those only for which it holds: NAME=VALUE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// 'table', 'json', or a template, which may follow 'table'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the newest containers, whatever their state
    #[arg(short = 'n', long, value_name = "NUMBER", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the newest container, whatever its state
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten identifiers and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
}

/// Lists the containers, the newest first.
pub(crate) async fn list(arguments: &ListArguments, call: &Call) -> Result<u8, Failure> {
    let filters = filters::document(&arguments.filter).map_err(Failure::text)?;
    let kind = if arguments.size { WITH_SIZE } else { KIND };
    let form = Form::new(kind, arguments.format.as_deref(), arguments.quiet)?;
    let limit = if arguments.latest { Some(1) } else { arguments.last.filter(|last| *last > 0) };
    // A template that shows sizes asks for them.
    let sizes = arguments.size || arguments.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let client = call.connect().await?;
    let request = client.get("/containers/json").flag("all", arguments.all).flag("size", sizes);
    let request =
        request.query_if("limit", limit.map(|limit| limit.to_string())).query_if("filters", filters);
    let containers: Vec<Value> = request.send().await?.json().await?;
    let rows: Vec<Row> = containers.iter().map(|container| row(container, arguments.no_trunc)).collect();
    print(&form.text(&rows)?)?;
    Ok(0)
}

fn row(container: &Value, whole: bool) -> Row {
    let text = |name: &str| container.get(name).text().to_owned();
    let id = text("Id");
    let image = text("Image");
    let names: Vec<&str> = container.get("Names").texts().map(|name| name.trim_start_matches('/')).collect();
    let command = text("Command");
    let created = container.get("Created").number();
    let mounts: Vec<&str> = container
        .get("Mounts")
        .list()
        .iter()
        .map(|mount| match mount.get("Name").text() {
            "" => mount.get("Source").text(),
            name => name,
        })
        .collect();
    let volumes = container.get("Mounts").list().iter().filter(|mount| mount.get("Driver").text() == "local");
    let networks = container.at(&["NetworkSettings", "Networks"]).fields();
    let labels = container.get("Labels").fields();
    let command = quote(&if whole { command } else { ellipsis(&command, COMMAND_CHARACTERS) });
    let mut row = Row::new([
        ("ID", if whole { id } else { short_id(&id).to_owned() }),
        ("Image", if whole || !image.starts_with("sha256:") { image } else { short_id(&image).to_owned() }),
        ("Command", command),
        ("CreatedAt", times::go_time(created)),
        ("RunningFor", times::ago(created)),
        ("Status", text("Status")),
        ("State", text("State")),
        ("Ports", ports(container.get("Ports"))),
        ("Names", names.join(",")),
        ("Size", size(container)),
        ("Labels", joined(labels)),
        ("Mounts", mounts.join(",")),
        ("Networks", networks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")),
        ("LocalVolumes", volumes.count().to_string()),
        ("Platform", String::new()),
    ]);
    row.labels = labels.to_vec();
    row
}

/// `name=value,…`, in the order of the names.
pub(crate) fn joined(labels: &[(String, Value)]) -> String {
    let mut labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}={}", value.text())).collect();
    labels.sort();
    labels.join(",")
}

fn size(container: &Value) -> String {
    let (own, whole) = (container.get("SizeRw").number(), container.get("SizeRootFs").number());
    let own = sizes::human(own);
    if whole > 0 { format!("{own} (virtual {})", sizes::human(whole)) } else { own }
}

fn ports(ports: &Value) -> String {
    let port = |port: &Value| {
        let inside = format!("{}/{}", port.get("PrivatePort").number(), port.get("Type").text());
        match (port.get("IP").text(), port.get("PublicPort").number()) {
            (_, 0) => inside,
            (address, public) => format!("{address}:{public}->{inside}"),
        }
    };
    ports.list().iter().map(port).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dockers() {
        let container: Value = serde_json::from_str(
            r#"{"Id":"0123456789abcdef","Names":["/web"],"Image":"sha256:fedcba98765432100","Command":"sh -c 'while true'; do",
            "Created":0,"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}],"State":"running",
            "Status":"Up 2 minutes","Labels":{"b":"2","a":"1"},"SizeRw":12,"SizeRootFs":1000012,
            "NetworkSettings":{"Networks":{"bridge":{}}},"Mounts":[]}"#,
        )
        .unwrap();
        let row = row(&container, false);
        for (name, text) in [
            ("ID", "0123456789ab"),
            ("Image", "fedcba987654"),
            ("Command", "\"sh -c 'while true';…\""),
            ("Ports", "0.0.0.0:8080->80/tcp"),
            ("Labels", "a=1,b=2"),
            ("Size", "12B (virtual 1MB)"),
            ("Names", "web"),
            ("Networks", "bridge"),
        ] {
            assert_eq!(row.fields.get(name).text(), text, "{name}");
        }
    }
}
