//! `capsid cp`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use capsid_api::client::{Client, ClientError, RequestBody, Response, segment};
use clap::Args;
use tokio::sync::{mpsc, oneshot};

use super::copy_plan::{From, Plan, To, plan, split};
use crate::archive::pack::pack;
use crate::archive::unpack::{Unpacking, unpack};
use crate::archive::{BodyReader, BodyWriter};
use crate::commands::Call;
use crate::failure::{Failure, is_status};
use crate::present::sizes::human;
use crate::present::value::Value;
use crate::session::sink;
use crate::words::names::file_problem;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces of an answer that wait to be unpacked.
const WAITING_PIECES: usize = 8;
/// Links that are followed to find out what a name is.
const MAX_LINKS: usize = 16;
/// Go's `os.ModeDir` and `os.ModeSymlink`, which the API has in modes.
const MODE_FOLDER: i64 = 1 << 31;
const MODE_LINK: i64 = 1 << 27;

/// Flags and words of `cp`.
#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// Keep owners and groups
    #[arg(short, long)]
    archive: bool,
    /// Follow a link that is the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, PATH, or - for an archive on standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// CONTAINER:PATH, PATH, or - for an archive on standard output
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// Copies in one direction.
pub(crate) async fn copy(arguments: &CopyArguments, call: &Call) -> Result<u8, Failure> {
    let (from, to) = (side(&arguments.source), side(&arguments.destination));
    match (from, to) {
        (Some((container, path)), None) => {
            let client = call.connect().await?;
            from_container(arguments, &client, container, path).await?;
        }
        (None, Some((container, path))) => {
            let client = call.connect().await?;
            to_container(arguments, &client, container, path).await?;
        }
        (Some(_), Some(_)) => return Err(Failure::text("copying between containers is not supported")),
        (None, None) => return Err(Failure::text("must specify at least one container source")),
    }
    Ok(0)
}

/// A container and a path in it; a path of this machine has a slash or a dot in front of its first colon.
fn side(text: &str) -> Option<(&str, &str)> {
    if Path::new(text).is_absolute() {
        return None;
    }
    let (container, path) = text.split_once(':')?;
    (!container.starts_with('.') && !container.contains('/')).then_some((container, path))
}

/// What the daemon tells of a path.
#[derive(Debug)]
struct Found {
    is_folder: bool,
    link: Option<String>,
}

impl Found {
    fn of(answer: &Response) -> Result<Found, Failure> {
        let header = answer.header("x-docker-container-path-stat").unwrap_or_default();
        let document =
            BASE64.decode(header).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let document = document.ok_or_else(|| Failure::text("the daemon does not say what the path is"))?;
        let mode = document.get("mode").number();
        let target = document.get("linkTarget").text();
        let is_link = mode & MODE_LINK != 0;
        Ok(Found { is_folder: mode & MODE_FOLDER != 0, link: is_link.then(|| target.to_owned()) })
    }
}

/// Looks at a path, and at what links there lead to.
async fn resolve(client: &Client, container: &str, path: &str) -> Result<(String, Option<Found>), Failure> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let request = client.head(format!("/containers/{}/archive", segment(container))).query("path", &path);
        let found = match request.send().await {
            Ok(answer) => Found::of(&answer)?,
            // A container that is not there is told by what comes next.
            Err(error) if is_status(&error, 404) => return Ok((path, None)),
            Err(error) => return Err(error.into()),
        };
        match &found.link {
            Some(target) if target.starts_with('/') => path.clone_from(target),
            Some(target) if !target.is_empty() => path = format!("{}/{target}", split(&path).0),
            _ => return Ok((path, Some(found))),
        }
    }
    Err(Failure::text(format!("too many links in {path}")))
}

async fn from_container(
    arguments: &CopyArguments,
    client: &Arc<Client>,
    container: &str,
    path: &str,
) -> Result<(), Failure> {
    let path = if path.is_empty() { "/" } else { path };
    let source = if arguments.follow_link {
        let (resolved, _) = resolve(client, container, path).await?;
        resolved
    } else {
        path.to_owned()
    };
    let request = client.get(format!("/containers/{}/archive", segment(container))).query("path", &source);
    let destination = &arguments.destination;
    if destination == "-" {
        sink::refuse_terminal(None, "write an archive")?;
        return sink::save(request.send().await?, None).await;
    }
    let answer = request.send().await?;
    let found = Found::of(&answer)?;
    let here = fs::metadata(destination);
    let to = To {
        path: destination,
        exists: here.is_ok(),
        is_folder: here.as_ref().is_ok_and(fs::Metadata::is_dir),
    };
    let plan = plan(From { path, is_folder: found.is_folder }, to).map_err(Failure::text)?;
    let folder = Path::new(&plan.folder);
    if !folder.is_dir() {
        let problem = io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        return Err(Failure::text(format!(
            "invalid output path: {}",
            file_problem("lstat", folder, &problem)
        )));
    }
    let count = receive(answer, plan, arguments.archive).await?;
    told(arguments, count, destination);
    Ok(())
}

/// Unpacks an answer's body. The result is how long it was.
async fn receive(mut answer: Response, plan: Plan, keeps_owners: bool) -> Result<u64, Failure> {
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(WAITING_PIECES);
    let (tell, unpacked) = oneshot::channel();
    thread::Builder::new().name("archive".into()).spawn(move || {
        let how =
            Unpacking { folder: Path::new(&plan.folder), name: plan.name.map(OsString::from), keeps_owners };
        let _ = tell.send(unpack(BodyReader::new(pieces), &how));
    })?;
    let mut count = 0;
    loop {
        let piece = match answer.chunk().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => break,
            Err(error) => Err(io::Error::other(error)),
        };
        count += piece.as_ref().map_or(0, Bytes::len) as u64;
        // Whoever unpacks says why it stopped.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    for left_out in unpacked.await?? {
        eprintln!("capsid: left out {left_out}: devices are not made here");
    }
    Ok(count)
}

async fn to_container(
    arguments: &CopyArguments,
    client: &Arc<Client>,
    container: &str,
    path: &str,
) -> Result<(), Failure> {
    let (sender, body) = RequestBody::stream();
    let count = Arc::new(AtomicU64::new(0));
    let writer = BodyWriter::new(sender, Arc::clone(&count));
    let (destination, found) = resolve(client, container, if path.is_empty() { "/" } else { path }).await?;
    if arguments.source == "-" {
        if found.is_none_or(|found| !found.is_folder) {
            return Err(Failure::text(format!("destination \"{container}:{path}\" must be a directory")));
        }
        let (tell, sent) = oneshot::channel();
        thread::Builder::new().name("archive".into()).spawn(move || {
            let mut output = BufWriter::with_capacity(PIECE_BYTES, writer);
            let copied = io::copy(&mut io::stdin().lock(), &mut output).map(drop);
            let _ = tell.send(copied.and_then(|()| io::Write::flush(&mut output)));
        })?;
        return put(arguments, client, container, &destination, body, sent).await;
    }
    let source = arguments.source.clone();
    let follows = arguments.follow_link || source.ends_with('/') || source.ends_with("/.");
    let here = if follows { fs::metadata(&source) } else { fs::symlink_metadata(&source) };
    let here = here.map_err(|error| Failure::text(file_problem("lstat", Path::new(&source), &error)))?;
    let to = To {
        path: &destination,
        exists: found.is_some(),
        is_folder: found.is_some_and(|found| found.is_folder),
    };
    let plan = plan(From { path: &source, is_folder: here.is_dir() }, to).map_err(Failure::text)?;
    let (tell, sent) = oneshot::channel();
    let name = plan.name.clone();
    thread::Builder::new().name("archive".into()).spawn(move || {
        let output = BufWriter::with_capacity(PIECE_BYTES, writer);
        let _ = tell.send(pack(Path::new(&source), name.as_deref().map(str::as_bytes), follows, output));
    })?;
    put(arguments, client, container, &plan.folder, body, sent).await?;
    told(arguments, count.load(Ordering::Relaxed), &format!("{container}:{path}"));
    Ok(())
}

async fn put(
    arguments: &CopyArguments,
    client: &Client,
    container: &str,
    folder: &str,
    body: RequestBody,
    sent: oneshot::Receiver<io::Result<()>>,
) -> Result<(), Failure> {
    let request = client.put(format!("/containers/{}/archive", segment(container))).query("path", folder);
    let request = request.query("noOverwriteDirNonDir", "true").flag("copyUIDGID", arguments.archive);
    let answered: Result<Response, ClientError> = request.body("application/x-tar", body).send().await;
    match (answered, sent.await) {
        (Err(error), _) => Err(error.into()),
        (Ok(_), Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn told(arguments: &CopyArguments, count: u64, destination: &str) {
    if !arguments.quiet && io::stderr().is_terminal() {
        eprintln!("Successfully copied {} to {destination}", human(i64::try_from(count).unwrap_or(i64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_paths() {
        assert_eq!(side("web:/a:b"), Some(("web", "/a:b")));
        assert_eq!(side("web:"), Some(("web", "")));
        for path in ["/a:b", "./a:b", "a/b:c", "plain", "-", "../x:y"] {
            assert_eq!(side(path), None, "{path}");
        }
    }
}
