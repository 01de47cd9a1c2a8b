//! `capsid inspect`, and those of containers and images alone.

use capsid_api::client::{Client, ClientError, segment};
use clap::Args;

use super::formatted;
use crate::commands::Call;
use crate::failure::{Failure, chain, is_status};
use crate::present::list::print;
use crate::present::value::Value;

/// What can be inspected, in the order in which a name is looked up.
const KINDS: [&str; 2] = ["container", "image"];

/// Flags and words of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    shared: OneKindArguments,
    /// Only this kind of thing: container or image
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

/// Flags and words of `container inspect` and `image inspect`.
#[derive(Debug, Args)]
pub(crate) struct OneKindArguments {
    /// 'json', or a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    size: bool,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// Prints what the daemon knows of each thing.
pub(crate) async fn inspect(arguments: &InspectArguments, call: &Call) -> Result<u8, Failure> {
    let kinds = match arguments.kind.as_deref() {
        None | Some("") => KINDS.to_vec(),
        Some(kind) if KINDS.contains(&kind) => vec![kind],
        Some(other) => return Err(Failure::text(format!("{other:?} is not a valid value for --type"))),
    };
    show(&arguments.shared, &kinds, call).await
}

/// The same for one kind of thing.
pub(crate) async fn one_kind(arguments: &OneKindArguments, kind: &str, call: &Call) -> Result<u8, Failure> {
    show(arguments, &[kind], call).await
}

async fn show(arguments: &OneKindArguments, kinds: &[&str], call: &Call) -> Result<u8, Failure> {
    let client = call.connect().await?;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        match find(&client, name, kinds, arguments.size).await {
            Ok(Some(document)) => found.push(document),
            Ok(None) => problems.push(format!("Error: No such object: {name}")),
            Err(error) => problems.push(chain(&error)),
        }
    }
    match arguments.format.as_deref().filter(|format| !format.is_empty()) {
        None => print(&format!("{}\n", Value::List(found).to_pretty_json()))?,
        Some(format) => {
            for document in &found {
                print(&format!("{}\n", formatted(document, format)?))?;
            }
        }
    }
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() { Ok(0) } else { Err(Failure::silent(1)) }
}

/// The first thing of that name. With one kind the daemon's own words say what is missing.
async fn find(client: &Client, name: &str, kinds: &[&str], size: bool) -> Result<Option<Value>, ClientError> {
    for kind in kinds {
        let request =
            client.get(format!("/{kind}s/{}/json", segment(name))).flag("size", size && *kind == "container");
        match request.send().await {
            Ok(answer) => return answer.json().await.map(Some),
            Err(error) if is_status(&error, 404) && kinds.len() > 1 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
