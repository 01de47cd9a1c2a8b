//! Reads archives from strangers.
//!
//! Why not the `tar` crate: it reads extension headers into memory without a bound, and it and its relatives have
//! had desynchronisation bugs, where two readers of one archive see different entries (CVE-2025-62518 and kin).
//! This reader bounds everything it holds, and refuses archives that readers are known to disagree about instead of
//! taking sides. No input may make it panic or allocate more than the limits allow.

mod sparse;

use std::io::{self, BufRead, BufReader, Read};

pub(crate) use sparse::OLD_MAP;
pub use sparse::{Extent, SparseMap};

use crate::entry::{Entry, EntryKind, Timestamp};
use crate::error::{EntryProblem, HeaderProblem, TarError};
use crate::escape::EscapedName;
use crate::header::{BLOCK, Header};
use crate::pax::{self, PaxHeader};

/// Sizes below this fit the header's eleven octal digits, so an extended header has no reason to differ.
const OCTAL_SIZE_LIMIT: u64 = 8 << 30;

/// Where a [`TarReader`] gets its bytes: a buffered reader that can be told to skip.
pub trait TarInput: BufRead {
    /// Passes over `count` bytes; an early end is an [`io::ErrorKind::UnexpectedEof`].
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(count).map_or(available, |count| count.min(available));
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }
}

impl TarInput for &[u8] {}

impl<R: Read> TarInput for BufReader<R> {}

/// What an archive may make its reader hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Bytes of one PAX extended header or GNU long name.
    pub max_extension_bytes: u64,
    /// Bytes of the names and values of one entry's extended attributes together.
    pub max_xattr_bytes: usize,
}

impl Default for TarLimits {
    fn default() -> TarLimits {
        // Twice what Linux lets one attribute have (XATTR_SIZE_MAX); far more than any path.
        TarLimits { max_extension_bytes: 1 << 20, max_xattr_bytes: 128 << 10 }
    }
}

/// Reads entries one after another. After an error the reader must not be used again.
pub struct TarReader<R> {
    input: R,
    limits: TarLimits,
    forgiving: bool,
    offset: u64,
    /// Data of the current entry that was not read yet.
    remaining: u64,
    /// Zeros between that data and the next header.
    padding: u64,
}

/// Extended headers waiting for their entry.
#[derive(Default)]
struct Pending {
    pax: Option<PaxHeader>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: TarInput> TarReader<R> {
    /// A reader at the start of an archive.
    pub fn new(input: R, limits: TarLimits) -> TarReader<R> {
        TarReader { input, limits, forgiving: false, offset: 0, remaining: 0, padding: 0 }
    }

    /// For archives that are read once, by whom their sender means: as Go's reader, does not miss zeros behind the
    /// last entry's data, and leaves unread what follows the end marker.
    #[must_use]
    pub fn forgiving(mut self) -> TarReader<R> {
        self.forgiving = true;
        self
    }

    /// Where the bytes come from, at the place that was reached.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next entry, whatever was left of the one before. `None` at the archive's end, with everything behind it
    /// read and found to be zeros.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pending = Pending::default();
        loop {
            self.skip_rest()?;
            let at = self.offset;
            let Some(block) = self.header_block()? else {
                return match pending {
                    Pending { pax: None, long_name: None, long_link: None } => Ok(None),
                    _ => Err(TarError::Header { offset: at, problem: HeaderProblem::Dangling }),
                };
            };
            let problem = |problem| TarError::Header { offset: at, problem };
            let header = Header::parse(&block).map_err(problem)?;
            match header.kind {
                b'x' | b'X' => {
                    let header = PaxHeader::parse(&self.extension(&header)?).map_err(problem)?;
                    fill(&mut pending.pax, header).map_err(problem)?;
                }
                b'g' => pax::check_global(&self.extension(&header)?).map_err(problem)?,
                b'L' => fill(&mut pending.long_name, long_text(self.extension(&header)?)).map_err(problem)?,
                b'K' => fill(&mut pending.long_link, long_text(self.extension(&header)?)).map_err(problem)?,
                _ => return self.entry(header, pending, at).map(Some),
            }
        }
    }

    /// More of the current entry's data; empty at its end. For a sparse file this is only what is stored.
    pub fn fill_data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let available = self.input.fill_buf().map_err(TarError::Read)?;
        if available.is_empty() {
            return Err(TarError::Truncated { offset });
        }
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        Ok(&available[..available.len().min(limit)])
    }

    /// Marks bytes that [`TarReader::fill_data`] returned as used.
    pub fn consume_data(&mut self, count: usize) {
        let count = count.min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.input.consume(count);
        self.remaining -= count as u64;
        self.offset += count as u64;
    }

    /// How far into the stream the reader is.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self.remaining + self.padding;
        if self.forgiving && self.remaining == 0 {
            self.skip_padding()?;
        } else if rest > 0 {
            self.input.skip(rest).map_err(|source| self.read_error(source))?;
            self.offset += rest;
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// Passes over what there is of the padding.
    fn skip_padding(&mut self) -> Result<(), TarError> {
        match self.input.skip(self.padding) {
            Ok(()) => {
                self.offset += self.padding;
                Ok(())
            }
            Err(error) => match self.read_error(error) {
                TarError::Truncated { .. } => Ok(()),
                other => Err(other),
            },
        }
    }

    fn read_error(&self, source: io::Error) -> TarError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof if source.get_ref().is_none() => {
                TarError::Truncated { offset: self.offset }
            }
            _ => TarError::Read(source),
        }
    }

    /// A header block; `None` at the end marker or where the stream ends between entries (Go's writers may leave
    /// the marker out, and its readers do not miss it).
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.block()? {
            None => Ok(None),
            Some(second) if second == [0; BLOCK] => match self.forgiving {
                true => Ok(None),
                false => self.end().map(|()| None),
            },
            Some(_) => {
                let offset = self.offset - BLOCK as u64;
                Err(TarError::Header { offset, problem: HeaderProblem::AfterZeroBlock })
            }
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.input.fill_buf().map_err(TarError::Read)?;
            if available.is_empty() {
                return match filled {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated { offset: self.offset + filled as u64 }),
                };
            }
            let step = available.len().min(BLOCK - filled);
            block[filled..filled + step].copy_from_slice(&available[..step]);
            self.input.consume(step);
            filled += step;
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// Archives are padded with zeros to some record size; anything else back there is hidden from some readers.
    fn end(&mut self) -> Result<(), TarError> {
        loop {
            let available = self.input.fill_buf().map_err(TarError::Read)?;
            let length = available.len();
            if length == 0 {
                return Ok(());
            }
            if let Some(at) = available.iter().position(|&byte| byte != 0) {
                return Err(TarError::TrailingGarbage { offset: self.offset + at as u64 });
            }
            self.input.consume(length);
            self.offset += length as u64;
        }
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let limit = self.limits.max_extension_bytes;
        if header.size > limit {
            let problem = HeaderProblem::ExtensionTooLarge { size: header.size, limit };
            return Err(TarError::Header { offset: self.offset - BLOCK as u64, problem });
        }
        self.begin_data(header.size);
        let mut bytes = Vec::new();
        self.take_data(&mut bytes, usize::MAX)?;
        Ok(bytes)
    }

    /// Appends up to `limit` bytes of the entry's data.
    fn take_data(&mut self, bytes: &mut Vec<u8>, limit: usize) -> Result<(), TarError> {
        let mut left = limit;
        while left > 0 {
            let data = self.fill_data()?;
            if data.is_empty() {
                break;
            }
            let step = data.len().min(left);
            bytes.extend_from_slice(&data[..step]);
            self.consume_data(step);
            left -= step;
        }
        Ok(())
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn entry(&mut self, header: Header, pending: Pending, at: u64) -> Result<Entry, TarError> {
        let Pending { pax, long_name, long_link } = pending;
        let pax = pax.unwrap_or_default();
        if long_name.is_some() && pax.path.is_some() || long_link.is_some() && pax.link.is_some() {
            return Err(TarError::Header { offset: at, problem: HeaderProblem::Contradiction });
        }
        let path = long_name.or(pax.path).unwrap_or(header.name);
        let link = long_link.or(pax.link).unwrap_or(header.link);
        let refuse = |problem| TarError::Entry { entry: EscapedName::new(&path), problem };
        if let Some(problem) = pax.problem {
            return Err(refuse(problem));
        }
        let size = stored_size(header.size, pax.size).map_err(refuse)?;
        let xattr_bytes = pax.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        if xattr_bytes > self.limits.max_xattr_bytes {
            let limit = self.limits.max_xattr_bytes;
            return Err(refuse(EntryProblem::XattrsTooLarge { size: xattr_bytes, limit }));
        }
        let kind = match header.kind {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => EntryKind::CharacterDevice { major: header.major, minor: header.minor },
            b'4' => EntryKind::BlockDevice { major: header.major, minor: header.minor },
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(refuse(EntryProblem::Type(other))),
        };
        if kind != EntryKind::File && size != 0 {
            return Err(refuse(EntryProblem::UnexpectedData(size)));
        }
        self.begin_data(size);
        let mut entry = Entry {
            path,
            kind,
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(Timestamp { seconds: header.mtime, nanoseconds: 0 }),
            size,
            xattrs: pax.xattrs,
            data_offset: self.offset,
            sparse: None,
        };
        let old_sparse = (header.kind == b'S').then_some(header.sparse.as_slice());
        if old_sparse.is_some() || !pax.sparse.is_empty() {
            self.read_sparse_map(&mut entry, old_sparse, &pax.sparse)?;
        }
        Ok(entry)
    }
}

/// The size that decides where the next header is.
fn stored_size(header: u64, pax: Option<u64>) -> Result<u64, EntryProblem> {
    match pax {
        Some(pax) if pax != header && pax < OCTAL_SIZE_LIMIT => {
            Err(EntryProblem::SizeMismatch { pax, header })
        }
        Some(pax) if pax > i64::MAX.unsigned_abs() => Err(EntryProblem::Value("size")),
        Some(pax) => Ok(pax),
        None => Ok(header),
    }
}

fn fill<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderProblem> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderProblem::Contradiction),
    }
}

/// GNU long names end at their first NUL.
fn long_text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
