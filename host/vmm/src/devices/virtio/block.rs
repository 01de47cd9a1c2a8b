//! The block device (virtio 1.2, 5.2): a read-only disk of layers, or one writable raw file.
//!
//! Requests are parsed to [`Request`] before anything is done. What the file holds is never looked at: no format is
//! probed, so nothing that a guest writes can become more than its disk's content.

mod request;

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use vm_memory::GuestMemoryMmap;

use super::chain::{Buffers, Chain, Pieces};
use super::layer_disk::{LayerDisk, read_exact};
use super::worker::{Handler, Worker};
use super::{ActivateError, Activation, DeviceType, VirtioDevice};
use crate::memory;
use request::{Range, Request, SECTOR, Status};

/// Requests under way at once.
const QUEUE_SIZE: u16 = 256;
/// Data pieces of one request: what fits into a full queue with header and status.
const MAX_DATA_PIECES: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges in one discard or write-zeroes request.
const MAX_RANGES: u32 = 64;
/// Sectors in one such range (1 GiB): the host is not kept busy longer than that.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// Length of a disk's serial number (5.2.6).
const SERIAL_BYTES: usize = 20;

// Feature bits (5.2.3 and 6).
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
const RING: u64 = (1 << 28) | (1 << 29) | (1 << 32); // INDIRECT_DESC, EVENT_IDX, VERSION_1

/// A disk.
#[derive(Debug)]
pub struct BlockDevice {
    disk: Arc<Disk>,
    worker: Option<Worker>,
}

#[derive(Debug)]
enum Disk {
    Layers(LayerDisk),
    Writable { file: File, bytes: u64 },
}

impl BlockDevice {
    /// The read-only disk of layers; the guest sees the serial number "layers".
    ///
    /// # Errors
    ///
    /// As [`LayerDisk::new`].
    pub fn layers(layers: Vec<File>) -> io::Result<BlockDevice> {
        Ok(BlockDevice { disk: Arc::new(Disk::Layers(LayerDisk::new(layers)?)), worker: None })
    }

    /// A raw file that the guest may write; the guest sees the serial number "writable". Bytes behind the last
    /// whole sector are not part of the disk.
    ///
    /// # Errors
    ///
    /// The file cannot be asked for its size.
    pub fn writable(file: File) -> io::Result<BlockDevice> {
        let bytes = file.metadata()?.len() / SECTOR * SECTOR;
        Ok(BlockDevice { disk: Arc::new(Disk::Writable { file, bytes }), worker: None })
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let own = match *self.disk {
            Disk::Layers(_) => READ_ONLY,
            Disk::Writable { .. } => FLUSH | DISCARD | WRITE_ZEROES,
        };
        RING | SEG_MAX | BLOCK_SIZE | own
    }

    /// 5.2.4; what the disk does not offer stays zero.
    fn read_config(&self, offset: u64, out: &mut [u8]) {
        let mut space = [0; 60];
        let mut put = |at: usize, value: u32| space[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(12, MAX_DATA_PIECES);
        put(20, 512);
        if matches!(*self.disk, Disk::Writable { .. }) {
            put(36, MAX_RANGE_SECTORS);
            put(40, MAX_RANGES);
            put(44, 8); // discards are of use in whole pages
            put(48, MAX_RANGE_SECTORS);
            put(52, MAX_RANGES);
            put(56, 1); // writing zeros may release
        }
        space[..8].copy_from_slice(&(self.disk.bytes() / SECTOR).to_le_bytes());
        out.fill(0);
        let from = space.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        let count = from.len().min(out.len());
        out[..count].copy_from_slice(&from[..count]);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        // A driver without FLUSH has no way to ask, so everything is to be safe at once (5.2.6.2).
        let write_through = activation.features & FLUSH == 0;
        let handler = Requests { disk: Arc::clone(&self.disk), write_through };
        self.worker = Some(Worker::start("block", activation, handler)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct Requests {
    disk: Arc<Disk>,
    write_through: bool,
}

impl Handler for Requests {
    /// The last byte that the driver lends for writing is for the status; what has none cannot be answered.
    fn answer(&mut self, _queue: u16, chain: Chain<'_>, memory: &GuestMemoryMmap) -> u32 {
        let Some(Buffers { mut readable, mut writable }) = Buffers::of(chain, memory) else { return 0 };
        let Some(data_bytes) = writable.len().checked_sub(1) else { return 0 };
        let data = writable.take_front(data_bytes);
        let (status, written) = self.execute(&mut readable, data);
        writable.write(&[status as u8]);
        u32::try_from(written.saturating_add(1)).unwrap_or(u32::MAX)
    }
}

impl Requests {
    /// The outcome, and how much of `data` was written.
    fn execute(&self, readable: &mut Pieces<'_>, data: Pieces<'_>) -> (Status, u64) {
        let request = match Request::parse(readable, &data, self.disk.bytes()) {
            Ok(request) => request,
            Err(status) => return (status, 0),
        };
        let length = data.len();
        let done = match request {
            Request::Read { offset } => self.disk.read(data, offset).map(|()| length),
            Request::Write { offset } => self.write(std::mem::take(readable), offset).map(|()| 0),
            Request::Flush => self.disk.flush().map(|()| 0),
            Request::Identify => Ok(self.disk.identify(data)),
            Request::Discard(ranges) => self.disk.punch(&ranges).map(|()| 0),
            Request::WriteZeroes(ranges) => self.write_zeroes(&ranges).map(|()| 0),
        };
        match done {
            Ok(written) => (Status::Ok, written),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => (Status::Unsupported, 0),
            Err(_) => (Status::IoError, 0),
        }
    }

    fn write(&self, pieces: Pieces<'_>, offset: u64) -> io::Result<()> {
        self.disk.write(pieces, offset)?;
        if self.write_through { self.disk.flush() } else { Ok(()) }
    }

    fn write_zeroes(&self, ranges: &[Range]) -> io::Result<()> {
        self.disk.punch(ranges)?;
        if self.write_through { self.disk.flush() } else { Ok(()) }
    }
}

impl Disk {
    fn bytes(&self) -> u64 {
        match self {
            Disk::Layers(layers) => layers.bytes(),
            Disk::Writable { bytes, .. } => *bytes,
        }
    }

    fn writable(&self) -> io::Result<&File> {
        match self {
            Disk::Layers(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Disk::Writable { file, .. } => Ok(file),
        }
    }

    fn read(&self, pieces: Pieces<'_>, offset: u64) -> io::Result<()> {
        match self {
            Disk::Layers(layers) => layers.read(pieces, offset),
            Disk::Writable { file, .. } => read_exact(file, pieces, offset),
        }
    }

    fn write(&self, mut pieces: Pieces<'_>, mut offset: u64) -> io::Result<()> {
        let file = self.writable()?;
        while pieces.len() > 0 {
            let count = memory::write_at(file, pieces.as_slices(), offset)? as u64;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            pieces.take_front(count);
            offset += count;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self {
            Disk::Layers(_) => Ok(()),
            Disk::Writable { file, .. } => file.sync_data(),
        }
    }

    fn identify(&self, mut data: Pieces<'_>) -> u64 {
        let mut serial = [0; SERIAL_BYTES];
        let name: &[u8] = match self {
            Disk::Layers(_) => b"layers",
            Disk::Writable { .. } => b"writable",
        };
        serial[..name.len()].copy_from_slice(name);
        data.write(&serial) as u64
    }

    /// A hole reads as zeros, which is what both requests may come to.
    fn punch(&self, ranges: &[Range]) -> io::Result<()> {
        let file = self.writable()?;
        for range in ranges.iter().filter(|range| range.bytes > 0) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, range.offset, range.bytes).map_err(|errno| match errno {
                rustix::io::Errno::OPNOTSUPP => io::ErrorKind::Unsupported.into(),
                other => io::Error::from(other),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
