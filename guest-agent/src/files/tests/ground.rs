//! A folder that stands for a container's root, and the host's end of a connection to a worker in it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capsid_protocol::{
    BodyReader, BodyWriter, ChangeKind, ErrorCode, FilesWork, OpeningReply, PathStat, Refusal, Response,
    read_frame,
};
use capsid_tar::testing::{TestEntry, TestWriter};
use capsid_tar::{Entry, TarLimits, TarReader};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::error::StepError;
use crate::files::{Trees, serve};

/// Longer than any work here takes on a busy machine; a hang fails instead of hanging the suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three folders: the root, and a writable layer on what is below it.
pub(super) struct Ground {
    folder: TempDir,
    seen: OwnedFd,
}

impl Trees for Ground {
    fn seen(&self) -> BorrowedFd<'_> {
        self.seen.as_fd()
    }

    fn bare(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.root()))
    }

    fn apart(&self) -> Result<(OwnedFd, OwnedFd), StepError> {
        Ok((open(&self.upper()), open(&self.lower())))
    }
}

fn open(folder: &Path) -> OwnedFd {
    rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("a folder")
}

/// Whether a test can run that makes devices, gives files away or sets trusted attributes; says so if not.
pub(super) fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let reason = "this test gives files to others: it needs root";
    assert!(std::env::var_os("CAPSID_REQUIRE").is_none_or(|required| required != "all"), "{reason}");
    eprintln!("skipped: {reason}");
    false
}

impl Ground {
    pub(super) fn new() -> Self {
        // Not /tmp, which may be a file system without user attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        for name in ["root", "upper", "lower"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let seen = open(&folder.path().join("root"));
        Self { folder, seen }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.folder.path().join("upper")
    }

    pub(super) fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    /// What lies beside the root, and must stay as it is.
    pub(super) fn outside(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Runs a worker, with a host that does `talk`.
    pub(super) fn with_worker<T>(&self, work: &FilesWork, talk: impl FnOnce(&mut UnixStream) -> T) -> T {
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        std::thread::scope(|scope| {
            scope.spawn(|| serve(work, self, theirs.into(), &[]));
            let said = talk(&mut ours);
            drop(ours);
            said
        })
    }

    pub(super) fn stat(&self, path: &str) -> Result<PathStat, Refusal> {
        self.with_worker(&FilesWork::StatPath { path: path.to_owned() }, |host| match reply(host) {
            OpeningReply::Path(stat) => Ok(stat),
            OpeningReply::Refused(refusal) => Err(refusal),
            other => panic!("a path was answered with {other:?}"),
        })
    }

    /// The archive of what is at a path.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
        self.archive(&FilesWork::ReadTree { path: path.to_owned() })
    }

    pub(super) fn archive(&self, work: &FilesWork) -> Result<Vec<u8>, Refusal> {
        self.with_worker(work, |host| {
            if let OpeningReply::Refused(refusal) = reply(host) {
                return Err(refusal);
            }
            let mut body = BodyReader::new(&mut *host);
            let mut archive = Vec::new();
            body.read_to_end(&mut archive).expect("a whole body");
            end(host).map(|()| archive)
        })
    }

    pub(super) fn write(&self, path: &str, archive: &[u8]) -> Result<(), Refusal> {
        self.write_with(path, false, None, archive)
    }

    pub(super) fn write_with(
        &self,
        path: &str,
        no_overwrite_dir_non_dir: bool,
        owner: Option<&str>,
        archive: &[u8],
    ) -> Result<(), Refusal> {
        let (path, owner) = (path.to_owned(), owner.map(str::to_owned));
        self.with_worker(&FilesWork::WriteTree { path, no_overwrite_dir_non_dir, owner }, |host| {
            if let OpeningReply::Refused(refusal) = reply(host) {
                return Err(refusal);
            }
            let mut body = BodyWriter::new(&mut *host);
            // A worker that has seen enough says so and reads on for a while.
            let _ = body.write_all(archive).and_then(|()| body.finish().map(drop));
            end(host)
        })
    }

    /// The changes, in order.
    pub(super) fn changes(&self) -> Vec<(ChangeKind, String)> {
        self.with_worker(&FilesWork::Changes, |host| {
            assert_eq!(reply(host), OpeningReply::Files);
            let mut changes = Vec::new();
            loop {
                match read_frame(host).expect("a frame").1 {
                    Response::Changes(some) => {
                        changes.extend(some.into_iter().map(|change| (change.kind, change.path)));
                    }
                    Response::Done => return changes,
                    other => panic!("changes ended with {other:?}"),
                }
            }
        })
    }
}

pub(super) fn reply(host: &mut UnixStream) -> OpeningReply {
    read_frame(host).expect("an answer").1
}

pub(super) fn end(host: &mut UnixStream) -> Result<(), Refusal> {
    match read_frame(host).expect("an end").1 {
        Response::Done => Ok(()),
        Response::Failed(refusal) => Err(refusal),
        other => panic!("work ended with {other:?}"),
    }
}

/// An archive of these entries.
pub(super) fn archive(entries: &[TestEntry]) -> Vec<u8> {
    let mut tar = TestWriter::new(Vec::new());
    entries.iter().for_each(|entry| tar.push(entry).expect("memory"));
    tar.finish().expect("memory")
}

/// What is in an archive, which must be whole.
pub(super) fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut reader = TarReader::new(archive, TarLimits::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().expect("an archive") {
        entries.push(entry);
    }
    entries
}

/// The names in an archive.
pub(super) fn names(archive: &[u8]) -> Vec<String> {
    let names = entries(archive).into_iter().map(|entry| entry.path);
    names.map(|name| String::from_utf8(name).expect("a test's name")).collect()
}

pub(super) fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> ErrorCode {
    result.expect_err("it was not refused").code
}
