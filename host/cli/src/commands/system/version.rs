//! `capsid version`.

use std::fmt::Write as _;

use capsid_api::version::NEWEST;
use clap::Args;

use super::print_formatted;
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::print;
use crate::present::value::Value;

/// Flags of `version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArguments {
    /// 'json', or a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints the versions of client and daemon; those of the client also when there is no daemon to be had.
pub(crate) async fn version(arguments: &VersionArguments, call: &Call) -> Result<u8, Failure> {
    let server: Result<Value, Failure> = async {
        let client = call.connect().await?;
        Ok(client.get("/version").send().await?.json().await?)
    }
    .await;
    let text = |text: &str| Value::from(text);
    let client = [
        ("Version", text(env!("CARGO_PKG_VERSION"))),
        ("ApiVersion", Value::from(NEWEST.to_string())),
        ("DefaultAPIVersion", Value::from(NEWEST.to_string())),
        ("Os", text(std::env::consts::OS)),
        ("Arch", text("amd64")),
    ];
    let client = Value::Map(client.map(|(name, value)| (name.to_owned(), value)).to_vec());
    if let Some(format) = arguments.format.as_deref().filter(|format| !format.is_empty()) {
        let known = server.as_ref().ok().cloned().unwrap_or_default();
        print_formatted(
            &Value::Map(vec![("Client".to_owned(), client), ("Server".to_owned(), known)]),
            format,
        )?;
    } else {
        let mut shown = String::from("Client: capsid\n");
        for (name, field) in [("Version", "Version"), ("API version", "ApiVersion"), ("OS/Arch", "")] {
            line(&mut shown, 1, name, &value_of(&client, field));
        }
        if let Ok(server) = &server {
            describe(&mut shown, server);
        }
        print(&shown)?;
    }
    server.map(|_| 0)
}

fn describe(shown: &mut String, server: &Value) {
    let platform = server.at(&["Platform", "Name"]).text();
    let _ = writeln!(shown, "\nServer: {platform}\n Engine:");
    line(shown, 2, "Version", server.get("Version").text());
    let (api, oldest) = (server.get("ApiVersion").text(), server.get("MinAPIVersion").text());
    line(shown, 2, "API version", &format!("{api} (minimum version {oldest})"));
    line(shown, 2, "OS/Arch", &value_of(server, ""));
    line(shown, 2, "Kernel version", server.get("KernelVersion").text());
}

/// A field's text; that of the platform for a field without a name.
fn value_of(document: &Value, field: &str) -> String {
    if field.is_empty() {
        return format!("{}/{}", document.get("Os").text(), document.get("Arch").text());
    }
    document.get(field).text().to_owned()
}

fn line(shown: &mut String, indent: usize, name: &str, value: &str) {
    let name = format!("{name}:");
    // Writing to a string does not fail.
    let _ = writeln!(shown, "{:indent$}{name:<18} {value}", "");
}
