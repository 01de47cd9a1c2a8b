//! Compresses files that are full, in a thread of its own, while the log goes on.
//!
//! A file may get another number while it is compressed; its new name is given when it is whole. What fails stays as
//! it is, which readers read as well, and is tried again when the next file is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};

use super::decode;
use super::encode::MAX_LINE_BYTES;
use super::files::{RotatedFile, end_of_lines, read_fully_at};
use super::position::Shared;

const BLOCK_BYTES: usize = 64 * 1024;

/// In the header of a compressed file, where Docker's readers look for it as well.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extra {
    /// The time of the last entry.
    pub(super) last_time: String,
}

#[derive(Debug, Default)]
struct Work {
    running: bool,
    again: bool,
}

/// The thread that compresses, when there is something to do.
#[derive(Debug)]
pub(super) struct Compressor {
    shared: Arc<Shared>,
    work: Arc<Mutex<Work>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    pub(super) fn new(shared: Arc<Shared>) -> Compressor {
        Compressor { shared, work: Arc::default(), stop: Arc::default(), thread: None }
    }

    /// Says that there may be files to compress.
    pub(super) fn wake(&mut self) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.running {
            work.again = true;
            return;
        }
        let task = (Arc::clone(&self.shared), Arc::clone(&self.work), Arc::clone(&self.stop));
        // Without a thread, the files stay as they are until the next one is full.
        self.thread = thread::Builder::new()
            .name("log-compress".to_owned())
            .spawn(move || compress_all(&task.0, &task.1, &task.2))
            .ok();
        work.running = self.thread.is_some();
    }

    /// Waits until there is nothing to compress.
    #[cfg(test)]
    pub(super) fn finish(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Compressor {
    /// Stops at the next block, so that nothing appears in a folder that is being removed.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked leaves files uncompressed.
            let _ = thread.join();
        }
    }
}

fn compress_all(shared: &Shared, work: &Mutex<Work>, stop: &AtomicBool) {
    loop {
        let compressed = compress_oldest(shared, stop).unwrap_or(false);
        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
        if !compressed && !work.again || stop.load(Ordering::Relaxed) {
            work.running = false;
            return;
        }
        work.again = false;
    }
}

/// Compresses one file. False when there is none.
fn compress_oldest(shared: &Shared, stop: &AtomicBool) -> io::Result<bool> {
    let Some(file) = open_oldest(shared)? else { return Ok(false) };
    let unfinished = shared.files.unfinished();
    let result = compress(&file, &unfinished, stop)
        .and_then(|whole| if whole { put_in_place(shared, &file) } else { Ok(()) });
    if result.is_err() || stop.load(Ordering::Relaxed) {
        // It may be gone, or have its name.
        let _ = fs::remove_file(&unfinished);
    }
    result.map(|()| true)
}

fn open_oldest(shared: &Shared) -> io::Result<Option<File>> {
    let _names = shared.lock_names();
    let files = shared.files.list_rotated()?;
    files.iter().find(|file| !file.compressed).map(|file| File::open(&file.path)).transpose()
}

/// False when it was stopped.
fn compress(file: &File, to: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let extra = Extra { last_time: last_time(file)?.unwrap_or_default() };
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(to)?;
    let mut target =
        GzBuilder::new().extra(serde_json::to_vec(&extra)?).write(target, Compression::default());
    let mut block = vec![0; BLOCK_BYTES];
    let mut file = file;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match file.read(&mut block)? {
            0 => break,
            count => target.write_all(&block[..count])?,
        }
    }
    target.finish().map(|_| true)
}

/// Gives the compressed file the name that the original has by now, and removes that.
fn put_in_place(shared: &Shared, original: &File) -> io::Result<()> {
    let identity = original.metadata()?;
    let _names = shared.lock_names();
    let is_original = |file: &RotatedFile| {
        fs::metadata(&file.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (identity.dev(), identity.ino()))
    };
    match shared.files.list_rotated()?.into_iter().find(is_original) {
        Some(file) => {
            fs::rename(shared.files.unfinished(), shared.files.rotated(file.number, true))?;
            fs::remove_file(&file.path)
        }
        // It was the oldest, and went.
        None => fs::remove_file(shared.files.unfinished()),
    }
}

/// The time of the last entry of a file.
fn last_time(file: &File) -> io::Result<Option<String>> {
    let end = end_of_lines(file, file.metadata()?.len())?;
    let start = end.saturating_sub(MAX_LINE_BYTES as u64);
    let mut tail = vec![0; usize::try_from(end - start).unwrap_or(MAX_LINE_BYTES)];
    let count = read_fully_at(file, &mut tail, start)?;
    let line = tail[..count].trim_ascii_end().rsplit(|&byte| byte == b'\n').next();
    Ok(line.and_then(decode::time_of).map(|time| format!("{time:.9}")))
}
