//! `capsid load`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::thread;

use bytes::Bytes;
use capsid_api::client::{BodySender, RequestBody};
use capsid_api::extensions::LIMIT_PARAMETER;
use clap::Args;
use tokio::sync::oneshot;

use super::layout;
use crate::commands::Call;
use crate::failure::Failure;
use crate::present::progress::Progress;
use crate::present::value::Value;
use crate::words::names::{file_problem, reason};

/// Bytes of an archive that are sent at once.
const PIECE_BYTES: usize = 256 << 10;

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
    /// Load only this platform's variant
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

/// Where the archive comes from.
#[derive(Debug)]
enum Source {
    Stream(File),
    Layout(PathBuf),
}

/// Loads every image of the archive.
pub(crate) async fn load(arguments: LoadArguments, call: &Call) -> Result<u8, Failure> {
    let source = source(arguments.input)?;
    let client = call.connect().await?;
    let (sender, body) = RequestBody::stream();
    let (told, sent) = oneshot::channel();
    thread::Builder::new().name("archive".into()).spawn(move || {
        let _ = told.send(send(source, sender));
    })?;
    let mut request = client.post("/images/load").query("quiet", if arguments.quiet { "1" } else { "0" });
    for limit in &arguments.limit {
        request = request.query(LIMIT_PARAMETER, limit);
    }
    let answer =
        request.query_if("platform", arguments.platform).body("application/x-tar", body).send().await?;
    let mut messages = answer.json_stream::<Value>();
    let mut progress = Progress::new(arguments.quiet);
    let mut failure = None;
    while let Some(message) = messages.next().await? {
        if let Err(reason) = progress.show(&message) {
            failure = Some(Failure::text(reason));
        }
    }
    // What could not be read is the reason of what the daemon then missed.
    if let Ok(Err(error)) = sent.await {
        return Err(Failure::text(format!("failed to read the archive: {}", reason(&error))));
    }
    failure.map_or(Ok(0), Err)
}

fn source(input: Option<PathBuf>) -> Result<Source, Failure> {
    let Some(path) = input else {
        if io::stdin().is_terminal() {
            return Err(Failure::text("requested load from stdin, but stdin is empty"));
        }
        let stdin = rustix::io::dup(rustix::stdio::stdin()).map_err(io::Error::from)?;
        return Ok(Source::Stream(File::from(stdin)));
    };
    if path.is_dir() {
        return Ok(Source::Layout(path));
    }
    match File::open(&path) {
        Ok(file) => Ok(Source::Stream(file)),
        Err(error) => Err(Failure::text(file_problem("open", &path, &error))),
    }
}

fn send(source: Source, sender: BodySender) -> io::Result<()> {
    match source {
        Source::Layout(path) => layout::pack(&path, sender),
        Source::Stream(mut file) => {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let count = match file.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                // The daemon has heard enough.
                if !sender.blocking_send(Bytes::copy_from_slice(piece.get(..count).unwrap_or_default())) {
                    return Ok(());
                }
            }
        }
    }
}
