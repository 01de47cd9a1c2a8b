//! `capsid images`.

use capsid_runtime::store::unix_now;
use clap::Args;

use crate::failure::Failure;
use crate::state::State;
use crate::table;
use crate::units::format_bytes;

/// Flags of `images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArguments {
    /// Print identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Print whole identifiers
    #[arg(long)]
    no_trunc: bool,
}

/// Lists the images, the newest first.
pub(crate) fn images(arguments: &ImagesArguments, state: &State) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for image in state.images()?.images()? {
        let id = if arguments.no_trunc { image.id.to_string() } else { image.id.short() };
        if arguments.quiet {
            println!("{id}");
            continue;
        }
        let created = image.created.as_deref().and_then(seconds).unwrap_or(0);
        let created = format!("{} ago", table::ago(created, unix_now()));
        let row = |name: String, tag: String| {
            vec![name, tag, id.clone(), created.clone(), format_bytes(image.size)]
        };
        if image.references.is_empty() {
            rows.push(row("<none>".to_owned(), "<none>".to_owned()));
        }
        for reference in &image.references {
            let tag = reference.tag().unwrap_or("<none>").to_owned();
            rows.push(row(reference.familiar_name(), tag));
        }
    }
    if !arguments.quiet {
        table::print(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows);
    }
    Ok(0)
}

/// Seconds since 1970 of a moment as images write it (RFC 3339); none before then.
fn seconds(text: &str) -> Option<u64> {
    text.parse::<jiff::Timestamp>().ok().and_then(|moment| u64::try_from(moment.as_second()).ok())
}
