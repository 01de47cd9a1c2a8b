//! The files of a log and their names: the newest, and those before it, numbered from the newer to the older.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memchr::memrchr;

/// As much of a file as is looked at in one step when it is read from its end.
pub(super) const BACKWARD_BLOCK_BYTES: usize = 64 * 1024;

/// Where a log's files are.
#[derive(Clone, Debug)]
pub(super) struct LogFiles {
    newest: PathBuf,
    max_files: u32,
}

/// A file before the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RotatedFile {
    /// 1 is the one before the newest.
    pub(super) number: u32,
    pub(super) compressed: bool,
    pub(super) path: PathBuf,
}

impl LogFiles {
    /// The log with its newest file at `newest`, of at most `max_files` files.
    pub(super) fn new(newest: &Path, max_files: u32) -> LogFiles {
        LogFiles { newest: newest.to_owned(), max_files: max_files.max(1) }
    }

    pub(super) fn newest(&self) -> &Path {
        &self.newest
    }

    pub(super) fn position(&self) -> PathBuf {
        self.with_suffix(".position")
    }

    /// Where a file is compressed to, before it gets its name.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.with_suffix(".gz.unfinished")
    }

    pub(super) fn rotated(&self, number: u32, compressed: bool) -> PathBuf {
        self.with_suffix(&format!(".{number}{}", if compressed { ".gz" } else { "" }))
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut path = self.newest.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// Opens the newest file, and makes it when there is none.
    pub(super) fn open_newest(&self) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&self.newest)
    }

    /// The files before the newest that exist, oldest first. Reads the folder once, however many there may be.
    pub(super) fn list_rotated(&self) -> io::Result<Vec<RotatedFile>> {
        let (Some(folder), Some(name)) = (self.newest.parent(), self.newest.file_name()) else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry_name = entry?.file_name();
            let Some(suffix) = entry_name.as_encoded_bytes().strip_prefix(name.as_encoded_bytes()) else {
                continue;
            };
            let Some((number, compressed)) = parse_suffix(suffix) else { continue };
            files.push(RotatedFile { number, compressed, path: self.rotated(number, compressed) });
        }
        files.sort_by_key(|file| (std::cmp::Reverse(file.number), file.compressed));
        // A file that was killed after it was compressed, and before the original went, is there twice.
        files.dedup_by_key(|file| file.number);
        Ok(files)
    }

    /// Makes the newest file number 1, and those before it one older, of which the oldest goes. Can be repeated after
    /// it was interrupted at any point: a gap in the numbers shows how far it came, and what is older than the gap
    /// has moved.
    pub(super) fn shift(&self) -> io::Result<()> {
        if self.max_files == 1 {
            return remove(&self.newest);
        }
        let oldest = self.max_files - 1;
        let gap = match (1..=oldest).find(|&number| !self.has(number)) {
            Some(gap) => gap,
            None => {
                remove(&self.rotated(oldest, false))?;
                remove(&self.rotated(oldest, true))?;
                oldest
            }
        };
        for number in (1..gap).rev() {
            for compressed in [false, true] {
                rename(&self.rotated(number, compressed), &self.rotated(number + 1, compressed))?;
            }
        }
        rename(&self.newest, &self.rotated(1, false))
    }

    fn has(&self, number: u32) -> bool {
        [false, true].into_iter().any(|compressed| self.rotated(number, compressed).exists())
    }

    /// Clears what a killed process left: a file that was being compressed, and originals of compressed ones.
    pub(super) fn remove_leftovers(&self) -> io::Result<()> {
        remove(&self.unfinished())?;
        for file in self.list_rotated()? {
            if !file.compressed && self.rotated(file.number, true).exists() {
                remove(&file.path)?;
            }
        }
        Ok(())
    }
}

/// `.7` or `.7.gz`
fn parse_suffix(suffix: &[u8]) -> Option<(u32, bool)> {
    let suffix = std::str::from_utf8(suffix).ok()?.strip_prefix('.')?;
    let (digits, compressed) = match suffix.strip_suffix(".gz") {
        Some(digits) => (digits, true),
        None => (suffix, false),
    };
    let number: u32 = digits.parse().ok()?;
    // No `.07` and no `.+7`: only names that we give.
    (number > 0 && number.to_string() == digits).then_some((number, compressed))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Fills as much of `buffer` from `offset` as the file has.
pub(super) fn read_fully_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the last whole line of the first `end` bytes ends.
pub(super) fn end_of_lines(file: &File, end: u64) -> io::Result<u64> {
    let mut block = vec![0; BACKWARD_BLOCK_BYTES];
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(BACKWARD_BLOCK_BYTES as u64);
        let wanted = usize::try_from(end - start).unwrap_or(BACKWARD_BLOCK_BYTES);
        let count = read_fully_at(file, &mut block[..wanted], start)?;
        if let Some(newline) = memrchr(b'\n', &block[..count]) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                format!("{}={text}", path.file_name().unwrap().to_str().unwrap())
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_move_on_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::new(&folder.path().join("log"), 3);
        for text in ["a", "b", "c", "d"] {
            write(files.newest(), text);
            files.shift().unwrap();
        }
        assert_eq!(names(folder.path()), ["log.1=d", "log.2=c"]);
        assert!(!files.newest().exists());
        let one = LogFiles::new(&folder.path().join("log"), 1);
        write(one.newest(), "e");
        one.shift().unwrap();
        assert!(!one.newest().exists());
    }

    #[test]
    fn an_interrupted_move_is_finished_without_loss() {
        // What is on disk after each of the steps that make room among four files: `log.3` goes, then each moves.
        let states: [&[(&str, &str)]; 4] = [
            &[("log", "d"), ("log.1", "c"), ("log.2.gz", "b"), ("log.3", "a")],
            &[("log", "d"), ("log.1", "c"), ("log.2.gz", "b")],
            &[("log", "d"), ("log.1", "c"), ("log.3.gz", "b")],
            &[("log", "d"), ("log.2", "c"), ("log.3.gz", "b")],
        ];
        for state in states {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in state {
                write(&folder.path().join(name), text);
            }
            LogFiles::new(&folder.path().join("log"), 4).shift().unwrap();
            assert_eq!(names(folder.path()), ["log.1=d", "log.2=c", "log.3.gz=b"], "from {state:?}");
        }
    }

    #[test]
    fn only_our_names_are_files_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "log",
            "log.1",
            "log.10.gz",
            "log.2.gz",
            "log.2",
            "log.03",
            "log.0",
            "log.x",
            "log.position",
            "g.1",
        ] {
            write(&folder.path().join(name), "");
        }
        let files = LogFiles::new(&folder.path().join("log"), 3);
        let listed: Vec<(u32, bool)> =
            files.list_rotated().unwrap().iter().map(|file| (file.number, file.compressed)).collect();
        assert_eq!(listed, [(10, true), (2, false), (1, false)]);
        files.remove_leftovers().unwrap();
        assert!(!folder.path().join("log.2").exists());
        assert!(folder.path().join("log.2.gz").exists());
    }

    #[test]
    fn the_last_whole_line_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (text, expected) in [("", 0), ("abc", 0), ("a\nb", 2), ("a\nb\n", 4)] {
            write(&path, text);
            let file = File::open(&path).unwrap();
            assert_eq!(end_of_lines(&file, text.len() as u64).unwrap(), expected, "{text:?}");
        }
        let mut text = "a\n".to_owned();
        text.extend(std::iter::repeat_n('x', 3 * BACKWARD_BLOCK_BYTES));
        write(&path, &text);
        assert_eq!(end_of_lines(&File::open(&path).unwrap(), text.len() as u64).unwrap(), 2);
    }
}
