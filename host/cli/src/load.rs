//! `capsid load`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use capsid_image::{Limits, LoadSource, Progress};
use clap::Args;

use crate::failure::Failure;
use crate::state::State;
use crate::units::format_bytes;

/// Flags of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Read from an archive or an OCI layout folder, instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing but the images' names
    #[arg(short, long)]
    quiet: bool,
    /// Raise or lower a limit on what an image may cost, by the name that a refusal gives
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Vec<String>,
}

/// Shows how far each layer is, on a terminal.
struct Bar {
    shown: bool,
}

impl Progress for Bar {
    fn layer(&self, index: usize, total: usize, done_bytes: u64, total_bytes: u64) {
        if !self.shown {
            return;
        }
        let line = format!(
            "layer {}/{total}  {} / {}",
            index + 1,
            format_bytes(done_bytes),
            format_bytes(total_bytes)
        );
        // Whoever closed the terminal misses nothing.
        let _ = write!(io::stderr(), "\r{line:<60}");
        if done_bytes >= total_bytes && index + 1 == total {
            let _ = write!(io::stderr(), "\r{:<60}\r", "");
        }
    }

    fn warning(&self, text: &str) {
        eprintln!("capsid: warning: {text}");
    }
}

/// Loads every image of the archive.
pub(crate) fn load(arguments: LoadArguments, state: &State) -> Result<u8, Failure> {
    let source = match arguments.input {
        Some(path) => LoadSource::Path(path),
        None if io::stdin().is_terminal() => {
            return Err(Failure::text(
                "requested load from stdin, but stdin is a terminal: name an archive with -i",
            ));
        }
        None => LoadSource::Stream(Box::new(io::stdin())),
    };
    let bar = Bar { shown: !arguments.quiet && io::stderr().is_terminal() };
    let mut limits = Limits::default();
    for limit in &arguments.limit {
        let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
        limits.set(name, value)?;
    }
    let loaded = state.images()?.load(source, &limits, &bar)?;
    for image in loaded {
        if image.references.is_empty() {
            println!("Loaded image ID: {}", image.id);
        }
        for reference in image.references {
            println!("Loaded image: {reference}");
        }
    }
    Ok(0)
}
