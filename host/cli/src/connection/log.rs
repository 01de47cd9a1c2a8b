//! What a daemon that was started on demand writes: kept in its state folder, and shown when it dies at once.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The file in the state folder.
const NAME: &str = "daemon.log";
/// A log beyond this is put aside, in the place of the one that was put aside before.
const LONGEST: u64 = 1 << 20;
/// The most that is shown of it, in bytes and in lines.
const SHOWN_BYTES: u64 = 8 << 10;
const SHOWN_LINES: usize = 10;

/// The log of a daemon that is being started.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Where this daemon's part begins.
    start: u64,
}

impl Log {
    /// Opens the log in a state folder, to be appended to.
    pub(super) fn open(state: &Path) -> io::Result<(Log, File)> {
        let path = state.join(NAME);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LONGEST) {
            fs::rename(&path, state.join(format!("{NAME}.1")))?;
        }
        let file = File::options().append(true).create(true).open(&path)?;
        let start = file.metadata()?.len();
        Ok((Log { path, start }, file))
    }

    /// The last lines that were written since it was opened.
    pub(super) fn tail(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.start.max(length.saturating_sub(SHOWN_BYTES))))?;
            file.take(SHOWN_BYTES).read_to_end(&mut bytes)
        });
        if read.is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_tail_is_of_this_daemon_alone_and_a_long_log_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "an older daemon's\n").unwrap();
        let (log, mut file) = Log::open(folder.path()).unwrap();
        assert_eq!(log.tail(), "");
        for number in 0..30 {
            writeln!(file, "line {number}").unwrap();
        }
        assert!(log.tail().starts_with("line 20\n") && log.tail().ends_with("line 29"), "{}", log.tail());
        let length = usize::try_from(LONGEST).unwrap();
        fs::write(folder.path().join(NAME), vec![b'x'; length + 1]).unwrap();
        let (_, file) = Log::open(folder.path()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(folder.path().join("daemon.log.1").is_file());
    }
}
