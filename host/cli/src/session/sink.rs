//! Answers that become files: `save`, `export`, `cp … -`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use capsid_api::client::Response;

use crate::failure::Failure;
use crate::words::names::file_problem;

/// Refuses to write an archive to a terminal.
pub(crate) fn refuse_terminal(output: Option<&Path>, verb: &str) -> Result<(), Failure> {
    if output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::text(format!(
            "cowardly refusing to {verb} to a terminal. Use the -o flag or redirect"
        )));
    }
    Ok(())
}

/// Writes an answer's body to a file, which is there as a whole or not at all, or to standard output.
pub(crate) async fn save(mut answer: Response, output: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = output else {
        let mut stdout = File::from(rustix::stdio::stdout().as_fd().try_clone_to_owned()?);
        return copy(&mut answer, &mut stdout).await;
    };
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        // A pipe or a device is written to as it is.
        let mut file = File::options().write(true).open(path).map_err(|error| problem(path, &error))?;
        return copy(&mut answer, &mut file).await;
    }
    let name =
        path.file_name().ok_or_else(|| Failure::text(format!("invalid output path: {}", path.display())))?;
    let mut partial = name.to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(partial);
    let mut file = File::create_new(&partial).map_err(|error| problem(path, &error))?;
    let copied = copy(&mut answer, &mut file).await;
    let done = copied.and_then(|()| fs::rename(&partial, path).map_err(|error| problem(path, &error)));
    if done.is_err() {
        let _ = fs::remove_file(&partial);
    }
    done
}

fn problem(path: &Path, error: &io::Error) -> Failure {
    Failure::text(file_problem("open", path, error))
}

async fn copy(answer: &mut Response, output: &mut File) -> Result<(), Failure> {
    while let Some(piece) = answer.chunk().await? {
        match output.write_all(&piece) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}
