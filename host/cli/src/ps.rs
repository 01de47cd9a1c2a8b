//! `capsid ps`.

use capsid_runtime::container::{ContainerRecord, ContainerState};
use capsid_runtime::store::unix_now;
use clap::Args;

use crate::failure::Failure;
use crate::state::State;
use crate::table;

/// Longest command that is shown, in characters, as docker has it.
const COMMAND_CHARACTERS: usize = 20;

/// Flags of `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArguments {
    /// Show ended containers, too
    #[arg(short, long)]
    all: bool,
    /// Print identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Print whole identifiers and commands
    #[arg(long)]
    no_trunc: bool,
}

/// Lists the containers, the newest first.
pub(crate) fn ps(arguments: &PsArguments, state: &State) -> Result<u8, Failure> {
    let records = state.containers()?.list()?;
    let shown =
        |record: &&ContainerRecord| arguments.all || matches!(record.state, ContainerState::Running { .. });
    let mut rows = Vec::new();
    for record in records.iter().filter(shown) {
        let id = if arguments.no_trunc { record.id.as_str() } else { record.id.short() };
        if arguments.quiet {
            println!("{id}");
        } else {
            rows.push(row(record, id, arguments.no_trunc));
        }
    }
    if !arguments.quiet {
        table::print(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], &rows);
    }
    Ok(0)
}

fn row(record: &ContainerRecord, id: &str, whole: bool) -> Vec<String> {
    let command = record.command.join(" ");
    let command = match command.char_indices().nth(COMMAND_CHARACTERS) {
        Some((end, _)) if !whole => format!("{}…", &command[..end]),
        _ => command,
    };
    // Commands come from images, too.
    let command: String = command.chars().filter(|character| !character.is_control()).collect();
    let now = unix_now();
    let status = match &record.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { since } => format!("Up {}", table::ago(*since, now)),
        ContainerState::Exited { code, at, .. } => format!("Exited ({code}) {} ago", table::ago(*at, now)),
    };
    let created = format!("{} ago", table::ago(record.created, now));
    vec![
        id.to_owned(),
        record.image.clone(),
        format!("\"{command}\""),
        created,
        status,
        record.name.to_string(),
    ]
}
