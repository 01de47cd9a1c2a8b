//! A container's files: each piece of work is a connection of its own, and everything on it comes from the guest.

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use capsid_protocol::{
    ErrorCode, FRAME_HEADER_BYTES, FileChange, FilesWork, Opening, OpeningReply, PIECE_HEADER_BYTES,
    PathStat, Response, decode_body, decode_header, decode_piece_header, encode_piece_header,
};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::connection::{open, read_message};
use super::decompress::Decompressed;
use super::{Agent, AgentError, within};

/// How long the guest may send or take nothing while work is under way: a walk through millions of files that have not
/// changed tells nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the reason may take for which the guest takes no more of an archive.
const REASON_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an archive is sent at once.
const PIECE_BYTES: usize = 64 << 10;
/// The longest end of a body, a refusal: its message names a path or two.
const MAX_END_BYTES: usize = 64 << 10;
/// The longest name or link target that is believed: a path whose every byte was replaced by three.
const MAX_NAME_BYTES: usize = 3 * 4096;
/// Most changes that are taken in, and most text of their paths: they are held in memory at once.
const MAX_CHANGES: usize = 2_000_000;
const MAX_CHANGES_BYTES: usize = 256 << 20;

/// Why work on a container's files was not done.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The agent says why, or what is wrong with it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The archive to be unpacked could not be read. What was sent of it by then may have been unpacked.
    #[error("failed to read the archive that is to be unpacked")]
    Archive(#[source] io::Error),
    /// The guest tells of more changes than anybody could look at.
    #[error("the container's files have more than {MAX_CHANGES} changes")]
    TooManyChanges,
}

impl FilesError {
    /// The agent's own reason, if it gave one: [`ErrorCode::NotFound`] if there is nothing at the path,
    /// [`ErrorCode::InvalidArgument`] for an archive or a place that will not do.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            FilesError::Agent(error) => error.code(),
            FilesError::Archive(_) | FilesError::TooManyChanges => None,
        }
    }
}

/// What is asked of [`Agent::write_tree`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Makes it an error if a folder is in the place of something else, or something else in that of a folder
    /// (`noOverwriteDirNonDir`).
    pub no_overwrite_dir_non_dir: bool,
    /// To whom everything is to belong, `USER[:GROUP]`, by the container's own accounts: for `copyUIDGID`, which
    /// Docker's daemon takes to mean the user of the container's configuration if that has one. Absent, the numbers
    /// are the archive's.
    pub owner: Option<String>,
}

impl Agent {
    /// What is at a path. A link is itself, unless the path ends in `/` or `/.`.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::NotFound`] if there is nothing.
    pub async fn stat_path(&self, path: &str) -> Result<PathStat, FilesError> {
        let (_, stat) = begin_at(&self.socket, FilesWork::StatPath { path: path.to_owned() }).await?;
        Ok(stat)
    }

    /// What is at a path, and an archive of it whose names begin with the path's last part.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::NotFound`] if there is nothing. What fails later, the archive's reader is told.
    pub async fn read_tree(&self, path: &str) -> Result<(PathStat, Archive), FilesError> {
        let (connection, stat) =
            begin_at(&self.socket, FilesWork::ReadTree { path: path.to_owned() }).await?;
        Ok((stat, Archive::new(connection)))
    }

    /// An archive of the container's root, without what is mounted in it.
    ///
    /// # Errors
    ///
    /// What fails later, the archive's reader is told.
    pub async fn export(&self) -> Result<Archive, FilesError> {
        Ok(Archive::new(begin(&self.socket, FilesWork::Export).await?))
    }

    /// Unpacks an archive, plain or compressed with gzip or zstd, in the folder at a path. Reads `archive` to its end.
    /// When it returns, the files are there; they are on the disk once the machine was shut down.
    ///
    /// # Errors
    ///
    /// The agent's reason, which may come before the archive's end; what was unpacked by then stays.
    pub async fn write_tree(
        &self,
        path: &str,
        options: &WriteOptions,
        archive: impl AsyncRead + Unpin,
    ) -> Result<(), FilesError> {
        let WriteOptions { no_overwrite_dir_non_dir, owner } = options.clone();
        let work = FilesWork::WriteTree { path: path.to_owned(), no_overwrite_dir_non_dir, owner };
        let (mut from_guest, to_guest) = begin(&self.socket, work).await?.into_split();
        let end = read_end(&mut from_guest);
        tokio::pin!(end);
        let sent = tokio::select! {
            // Before everything is there it can only be a refusal.
            end = &mut end => return end.and(Err(FilesError::Agent(WRONG_ANSWER))),
            sent = send_archive(to_guest, archive) => sent,
        };
        match sent {
            Ok(_open) => timed(STALL_TIMEOUT, end).await,
            Err(FilesError::Agent(AgentError::Connection(error))) => match timed(REASON_TIMEOUT, end).await {
                Err(FilesError::Agent(AgentError::Failed(refusal))) => {
                    Err(AgentError::Failed(refusal).into())
                }
                _ => Err(AgentError::Connection(error).into()),
            },
            Err(error) => Err(error),
        }
    }

    /// How the container's root differs from its image, each folder before what is in it.
    ///
    /// # Errors
    ///
    /// The agent's reason; [`FilesError::TooManyChanges`].
    pub async fn changes(&self) -> Result<Vec<FileChange>, FilesError> {
        let mut connection = begin(&self.socket, FilesWork::Changes).await?;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        loop {
            let next = async { Ok(read_message::<Response>(&mut connection).await?.1) };
            match timed(STALL_TIMEOUT, next).await? {
                Response::Changes(some) => {
                    bytes += some.iter().map(|change| change.path.len()).sum::<usize>();
                    if changes.len() + some.len() > MAX_CHANGES || bytes > MAX_CHANGES_BYTES {
                        return Err(FilesError::TooManyChanges);
                    }
                    changes.extend(some);
                }
                Response::Done => return Ok(changes),
                Response::Failed(refusal) => return Err(AgentError::Failed(refusal).into()),
                _ => return Err(WRONG_ANSWER.into()),
            }
        }
    }
}

const WHAT: &str = "to work on files";
const WRONG_ANSWER: AgentError = AgentError::WrongAnswer { what: WHAT };

async fn answer(socket: &Path, work: FilesWork) -> Result<(UnixStream, OpeningReply), FilesError> {
    let (connection, reply) = within(WHAT, open(socket, &Opening::Files(work))).await?;
    match reply {
        OpeningReply::Refused(refusal) => Err(AgentError::Failed(refusal).into()),
        reply => Ok((connection, reply)),
    }
}

async fn begin(socket: &Path, work: FilesWork) -> Result<UnixStream, FilesError> {
    match answer(socket, work).await? {
        (connection, OpeningReply::Files) => Ok(connection),
        _ => Err(WRONG_ANSWER.into()),
    }
}

async fn begin_at(socket: &Path, work: FilesWork) -> Result<(UnixStream, PathStat), FilesError> {
    match answer(socket, work).await? {
        (connection, OpeningReply::Path(stat))
            if stat.name.len() <= MAX_NAME_BYTES && stat.link_target.len() <= MAX_NAME_BYTES =>
        {
            Ok((connection, stat))
        }
        _ => Err(WRONG_ANSWER.into()),
    }
}

async fn timed<T>(
    after: Duration,
    work: impl Future<Output = Result<T, FilesError>>,
) -> Result<T, FilesError> {
    timeout(after, work).await.unwrap_or(Err(AgentError::Silent { what: WHAT, after }.into()))
}

/// Waits, however long, for the frame that ends work.
async fn read_end(from_guest: &mut OwnedReadHalf) -> Result<(), FilesError> {
    match read_message(from_guest).await?.1 {
        Response::Done => Ok(()),
        Response::Failed(refusal) => Err(AgentError::Failed(refusal).into()),
        _ => Err(WRONG_ANSWER.into()),
    }
}

/// Sends an archive as a body, with its end. The half of the connection is given back, since closing it would say that
/// nobody waits for the answer.
async fn send_archive(
    mut to_guest: OwnedWriteHalf,
    archive: impl AsyncRead + Unpin,
) -> Result<OwnedWriteHalf, FilesError> {
    let mut archive = Decompressed::new(archive);
    let mut piece = vec![0; PIECE_HEADER_BYTES + PIECE_BYTES];
    loop {
        let count = archive.read(&mut piece[PIECE_HEADER_BYTES..]).await.map_err(FilesError::Archive)?;
        piece[..PIECE_HEADER_BYTES].copy_from_slice(&encode_piece_header(count));
        let sent = to_guest.write_all(&piece[..PIECE_HEADER_BYTES + count]);
        timed(STALL_TIMEOUT, async { sent.await.map_err(|error| AgentError::Connection(error).into()) })
            .await?;
        if count == 0 {
            return Ok(to_guest);
        }
    }
}

/// An archive that the guest sends. It ends as a file ends only if the guest says that it is whole; everything else is
/// an error, which holds a [`FilesError`]. Dropping it ends the work.
#[derive(Debug)]
pub struct Archive {
    guest: Guest,
    state: State,
}

/// The connection, and how long it may stay silent while somebody waits for it.
#[derive(Debug)]
struct Guest {
    connection: UnixStream,
    patience: Pin<Box<Sleep>>,
    is_waited_for: bool,
}

/// What comes next, and how much of it has come.
#[derive(Debug)]
enum State {
    Header([u8; PIECE_HEADER_BYTES], usize),
    /// So many bytes of the piece are left.
    Piece(usize),
    EndHeader([u8; FRAME_HEADER_BYTES], usize),
    End(Vec<u8>, usize),
    Ended,
}

impl Archive {
    fn new(connection: UnixStream) -> Archive {
        let guest = Guest { connection, patience: Box::pin(sleep(STALL_TIMEOUT)), is_waited_for: false };
        Archive { guest, state: State::Header([0; PIECE_HEADER_BYTES], 0) }
    }

    /// Fills what comes next as far as it is there; `true` once it is whole.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let (bytes, filled): (&mut [u8], &mut usize) = match &mut self.state {
            State::Header(bytes, filled) => (bytes, filled),
            State::EndHeader(bytes, filled) => (bytes, filled),
            State::End(bytes, filled) => (bytes, filled),
            State::Piece(_) | State::Ended => return Poll::Ready(Ok(true)),
        };
        if *filled == bytes.len() {
            return Poll::Ready(Ok(true));
        }
        let mut buffer = ReadBuf::new(&mut bytes[*filled..]);
        ready!(self.guest.poll_some(context, &mut buffer))?;
        *filled += buffer.filled().len();
        Poll::Ready(Ok(*filled == bytes.len()))
    }

    /// What follows something that is whole now.
    fn next_state(&mut self) -> io::Result<State> {
        Ok(match &mut self.state {
            State::Header(header, _) => match decode_piece_header(*header)? {
                0 => State::EndHeader([0; FRAME_HEADER_BYTES], 0),
                length => State::Piece(length),
            },
            State::Piece(_) => State::Header([0; PIECE_HEADER_BYTES], 0),
            State::EndHeader(header, _) => match decode_header(*header) {
                Ok((_, length)) if length <= MAX_END_BYTES => State::End(vec![0; length], 0),
                _ => return Err(failed(WRONG_ANSWER)),
            },
            State::End(bytes, _) => match decode_body(bytes) {
                Ok(Response::Done) => State::Ended,
                Ok(Response::Failed(refusal)) => return Err(failed(AgentError::Failed(refusal))),
                _ => return Err(failed(WRONG_ANSWER)),
            },
            State::Ended => State::Ended,
        })
    }
}

impl AsyncRead for Archive {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let archive = self.get_mut();
        loop {
            match &mut archive.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Piece(left) if *left > 0 => {
                    let wanted = buffer.remaining().min(*left);
                    if wanted == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let mut some = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
                    ready!(archive.guest.poll_some(context, &mut some))?;
                    let count = some.filled().len();
                    *left -= count;
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                _ => {
                    if ready!(archive.poll_fill(context))? {
                        archive.state = archive.next_state()?;
                    }
                }
            }
        }
    }
}

impl Guest {
    /// Reads at least a byte into an empty buffer, in bounded time.
    fn poll_some(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.connection).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(failed(AgentError::Ended))),
            Poll::Ready(Ok(())) => {
                self.is_waited_for = false;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(AgentError::Connection(error)))),
            Poll::Pending => {
                if !std::mem::replace(&mut self.is_waited_for, true) {
                    self.patience.as_mut().reset(Instant::now() + STALL_TIMEOUT);
                }
                ready!(self.patience.as_mut().poll(context));
                Poll::Ready(Err(failed(AgentError::Silent { what: WHAT, after: STALL_TIMEOUT })))
            }
        }
    }
}

fn failed(error: AgentError) -> io::Error {
    io::Error::other(FilesError::Agent(error))
}

/// Linux's `st_mode` as Go's `os.FileMode` has it, which is what Docker's API tells of a path
/// (`X-Docker-Container-Path-Stat`).
#[must_use]
pub fn go_file_mode(st_mode: u32) -> u32 {
    let kind = match st_mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| st_mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | st_mode & 0o777
}
