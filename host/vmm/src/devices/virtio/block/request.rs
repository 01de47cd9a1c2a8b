//! A block request as a value (virtio 1.2, 5.2.6): everything that is wrong with it is found before anything is done.

use super::super::chain::Pieces;
use super::{MAX_RANGE_SECTORS, MAX_RANGES};

/// The unit of every number in the protocol.
pub(super) const SECTOR: u64 = 512;
/// Most data of one read or write: no driver asks for a fraction of that, and a disk's thread is busy no longer.
const MAX_DATA_BYTES: u64 = 64 << 20;

// Request types.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// The one flag of a write-zeroes range: it may be released. A discard has none.
const UNMAP: u32 = 1;
const RANGE_BYTES: u64 = 16;

/// What the last byte of a request tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Bytes of the disk, within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What is to be done. Data lies in what is left of the readable pieces, or in the writable ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read { offset: u64 },
    Write { offset: u64 },
    Flush,
    Identify,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

impl Request {
    /// Takes the header, and ranges if there are, off the front of `readable`.
    pub(super) fn parse(
        readable: &mut Pieces<'_>,
        data: &Pieces<'_>,
        disk_bytes: u64,
    ) -> Result<Request, Status> {
        let header: [u8; 16] = readable.read().ok_or(Status::IoError)?;
        let sector = u64_at(&header, 8);
        match u32_at(&header, 0) {
            IN => Ok(Request::Read { offset: place(sector, data.len(), disk_bytes)? }),
            OUT => Ok(Request::Write { offset: place(sector, readable.len(), disk_bytes)? }),
            FLUSH => Ok(Request::Flush),
            GET_ID => Ok(Request::Identify),
            DISCARD => Ok(Request::Discard(ranges(readable, 0, disk_bytes)?)),
            WRITE_ZEROES => Ok(Request::WriteZeroes(ranges(readable, UNMAP, disk_bytes)?)),
            _ => Err(Status::Unsupported),
        }
    }
}

/// The byte offset of whole sectors on the disk.
fn place(sector: u64, bytes: u64, disk_bytes: u64) -> Result<u64, Status> {
    let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    let end = offset.checked_add(bytes).ok_or(Status::IoError)?;
    if bytes.is_multiple_of(SECTOR) && bytes <= MAX_DATA_BYTES && end <= disk_bytes {
        Ok(offset)
    } else {
        Err(Status::IoError)
    }
}

fn ranges(readable: &mut Pieces<'_>, allowed_flags: u32, disk_bytes: u64) -> Result<Vec<Range>, Status> {
    let count = readable.len() / RANGE_BYTES;
    if !readable.len().is_multiple_of(RANGE_BYTES) || !(1..=u64::from(MAX_RANGES)).contains(&count) {
        return Err(Status::IoError);
    }
    let mut ranges = Vec::new();
    while let Some(bytes) = readable.read::<16>() {
        let sectors = u32_at(&bytes, 8);
        if u32_at(&bytes, 12) & !allowed_flags != 0 {
            return Err(Status::Unsupported);
        }
        let offset = u64_at(&bytes, 0).checked_mul(SECTOR).ok_or(Status::IoError)?;
        let length = u64::from(sectors) * SECTOR;
        let end = offset.checked_add(length).ok_or(Status::IoError)?;
        if sectors > MAX_RANGE_SECTORS || end > disk_bytes {
            return Err(Status::IoError);
        }
        ranges.push(Range { offset, bytes: length });
    }
    Ok(ranges)
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}
