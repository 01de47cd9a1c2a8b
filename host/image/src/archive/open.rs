//! From a path or a stream to an [`Archive`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{Archive, ArchiveError, Member, TarArchive};
use crate::layer::Compression;
use crate::limits::Limits;
use crate::store::LoadSource;
use capsid_tar::EscapedName;
use capsid_tar::{EntryKind, TarInput, TarReader};

/// How much is copied at once.
const PIECE: usize = 256 << 10;

/// Opens a source. Folders and plain tar files are read where they are; streams and compressed archives go to an
/// unnamed file in `scratch` first, since the order of members is not to be relied on.
pub(crate) fn open(source: LoadSource, scratch: &Path, limits: &Limits) -> Result<Archive, ArchiveError> {
    let file = match source {
        LoadSource::Path(path) => {
            let failed = |source| ArchiveError::Open(path.clone(), source);
            let file = File::open(&path).map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            if metadata.is_dir() {
                return Ok(Archive::Folder(path));
            }
            if !metadata.is_file() {
                spool(Box::new(file), scratch, limits)?
            } else if head_of(&file).map_err(failed)? == Compression::Plain {
                file
            } else {
                spool(Box::new(file), scratch, limits)?
            }
        }
        LoadSource::Stream(stream) => spool(stream, scratch, limits)?,
    };
    scan(file, limits).map(Archive::Tar)
}

fn head_of(mut file: &File) -> io::Result<Compression> {
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    file.rewind()?;
    Ok(Compression::detect(&head[..filled]))
}

/// Brings a stream to disk, decompressed.
fn spool(stream: Box<dyn Read + Send>, scratch: &Path, limits: &Limits) -> Result<File, ArchiveError> {
    let mut input = BufReader::with_capacity(PIECE, stream);
    let compression = Compression::detect(input.fill_buf().map_err(ArchiveError::Spool)?);
    let mut decoder = compression.decoder(input).map_err(ArchiveError::Decompress)?;
    let mut file = tempfile::tempfile_in(scratch).map_err(ArchiveError::Spool)?;
    let mut piece = vec![0; PIECE];
    let mut total = 0u64;
    loop {
        let count = match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if compression == Compression::Plain => return Err(ArchiveError::Spool(error)),
            Err(error) => return Err(ArchiveError::Decompress(error)),
        };
        total += count as u64;
        if total > limits.max_archive_bytes {
            return Err(ArchiveError::TooLarge(limits.max_archive_bytes));
        }
        file.write_all(&piece[..count]).map_err(ArchiveError::Spool)?;
    }
    file.rewind().map_err(ArchiveError::Spool)?;
    Ok(file)
}

/// Skips by seeking, and knows where the file ends.
struct Seekable {
    reader: BufReader<File>,
    length: u64,
}

impl Read for Seekable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Seekable {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }
}

impl TarInput for Seekable {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let position = self.reader.stream_position()?;
        if count > self.length.saturating_sub(position) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Not past the end of a file, so it fits.
        self.reader.seek_relative(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// Reads all headers.
fn scan(mut file: File, limits: &Limits) -> Result<TarArchive, ArchiveError> {
    let copy = file.try_clone().map_err(ArchiveError::Spool)?;
    let length = file.seek(SeekFrom::End(0)).map_err(ArchiveError::Spool)?;
    file.rewind().map_err(ArchiveError::Spool)?;
    let input = Seekable { reader: BufReader::with_capacity(4096, copy), length };
    let mut reader = TarReader::new(input, limits.tar());
    let mut members = HashMap::new();
    let mut count = 0;
    while let Some(entry) = reader.next_entry().map_err(ArchiveError::Tar)? {
        count += 1;
        if count > limits.max_archive_entries {
            return Err(ArchiveError::TooManyMembers(limits.max_archive_entries));
        }
        let name = normal(b"", &entry.path);
        let member = match entry.kind {
            EntryKind::File if entry.sparse.is_none() => {
                Member::Data { offset: entry.data_offset, size: entry.size }
            }
            EntryKind::HardLink(target) => Member::Link(normal(b"", &target)),
            EntryKind::Symlink(target) => {
                let folder = name.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |end| &name[..end]);
                Member::Link(normal(folder, &target))
            }
            _ => continue,
        };
        if members.insert(name, member).is_some() {
            return Err(ArchiveError::Duplicate(EscapedName::new(&entry.path)));
        }
    }
    Ok(TarArchive { file, members })
}

/// A member's name without empty parts; `..` goes up, and never above the archive.
fn normal(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in folder.split(|&byte| byte == b'/').chain(path.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join(&b'/')
}
