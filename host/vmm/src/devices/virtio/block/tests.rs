use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::*;

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x11_0000;
const STATUS: u64 = 0x1f_0000;
const DISK_BYTES: u64 = 1 << 20;
const WRITABLE: u16 = 2;

struct Bench {
    memory: GuestMemoryMmap,
    requests: Requests,
    file: File,
}

impl Bench {
    fn new() -> Bench {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK_BYTES).unwrap();
        let device = BlockDevice::writable(file.try_clone().unwrap()).unwrap();
        Bench::with(&device, file)
    }

    fn layers() -> Bench {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK_BYTES).unwrap();
        Bench::with(&BlockDevice::layers(vec![file.try_clone().unwrap()]).unwrap(), file)
    }

    fn with(device: &BlockDevice, file: File) -> Bench {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let requests = Requests { disk: Arc::clone(&device.disk), write_through: false };
        Bench { memory, requests, file }
    }

    /// The number of bytes that the device claims to have written.
    fn answer(&mut self, pieces: &[(u64, u32, u16)]) -> u32 {
        let descriptors: Vec<RawDescriptor> = pieces
            .iter()
            .map(|(at, length, flags)| RawDescriptor::from(Descriptor::new(*at, *length, *flags, 0)))
            .collect();
        let ring = MockSplitQueue::new(&self.memory, 64);
        let chain = ring.build_desc_chain(&descriptors).unwrap();
        self.requests.answer(0, chain, &self.memory)
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
        let mut pieces = vec![(HEADER, 16, 0)];
        pieces.extend(data);
        pieces.push((STATUS, 1, WRITABLE));
        let written = self.answer(&pieces);
        (self.memory.read_obj(GuestAddress(STATUS)).unwrap(), written)
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.memory.write_obj(sector, GuestAddress(DATA)).unwrap();
        self.memory.write_obj(sectors, GuestAddress(DATA + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(DATA + 12)).unwrap();
        self.request(kind, 0, &[(DATA, 16, 0)]).0
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut bench = Bench::new();
    bench.memory.write_slice(&[5; 1024], GuestAddress(DATA)).unwrap();
    assert_eq!(bench.request(1, 4, &[(DATA, 700, 0), (DATA + 700, 324, 0)]), (0, 1));
    let mut seen = [0; 1024];
    bench.file.read_exact_at(&mut seen, 4 * 512).unwrap();
    assert_eq!(seen, [5; 1024]);
    let answer = bench.request(0, 4, &[(DATA + 0x1000, 100, WRITABLE), (DATA + 0x2000, 924, WRITABLE)]);
    assert_eq!(answer, (0, 1025));
    assert_eq!(bench.memory.read_obj::<u8>(GuestAddress(DATA + 0x2000 + 923)).unwrap(), 5);
    assert_eq!(bench.request(4, 0, &[]), (0, 1));
}

#[test]
fn nothing_beyond_the_disk_is_touched() {
    let mut bench = Bench::new();
    let last = DISK_BYTES / 512 - 1;
    for (sector, length) in [(last + 1, 512), (last, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)]
    {
        assert_eq!(bench.request(1, sector, &[(DATA, length, 0)]), (1, 1));
        assert_eq!(bench.request(0, sector, &[(DATA, length, WRITABLE)]), (1, 1));
    }
    assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
    for (sector, sectors) in [(last, 2), (u64::MAX, 1), (0, u32::MAX)] {
        assert_eq!(bench.range(11, sector, sectors, 0), 1);
        assert_eq!(bench.range(13, sector, sectors, 0), 1);
    }
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeros() {
    let mut bench = Bench::new();
    for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
        bench.file.write_all_at(&[9; 12288], 0).unwrap();
        assert_eq!(bench.range(kind, 8, 8, flags), 0);
        let mut seen = [1; 12288];
        bench.file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen[..4096].iter().all(|byte| *byte == 9));
        assert!(seen[4096..8192].iter().all(|byte| *byte == 0));
        assert!(seen[8192..].iter().all(|byte| *byte == 9));
    }
    assert_eq!(bench.range(11, 8, 8, 1), 2);
    assert_eq!(bench.range(13, 8, 8, 2), 2);
}

#[test]
fn layers_cannot_be_written() {
    let mut bench = Bench::layers();
    assert_eq!(bench.request(1, 200, &[(DATA, 512, 0)]).0, 1);
    assert_eq!(bench.range(11, 200, 8, 0), 1);
    assert_eq!(bench.request(0, 1, &[(DATA, 512, WRITABLE)]), (0, 513));
    let mut magic = [0; 8];
    bench.memory.read_slice(&mut magic, GuestAddress(DATA)).unwrap();
    assert_eq!(&magic, b"EFI PART");
}

#[test]
fn each_disk_has_its_name() {
    for (mut bench, name) in [(Bench::new(), "writable"), (Bench::layers(), "layers")] {
        assert_eq!(bench.request(8, 0, &[(DATA, 20, WRITABLE)]), (0, 21));
        let mut serial = [0; 20];
        bench.memory.read_slice(&mut serial, GuestAddress(DATA)).unwrap();
        assert_eq!(std::str::from_utf8(&serial).unwrap().trim_end_matches('\0'), name);
    }
}

#[test]
fn odd_chains_are_answered_as_far_as_they_can_be() {
    let mut bench = Bench::new();
    bench.memory.write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
    // No room for a status; a writable piece first; a piece outside memory; nothing at all to read.
    assert_eq!(bench.answer(&[(HEADER, 16, 0)]), 0);
    assert_eq!(bench.answer(&[(STATUS, 1, WRITABLE), (HEADER, 16, 0)]), 0);
    assert_eq!(bench.answer(&[(HEADER, 16, 0), (u64::MAX - 10, 512, WRITABLE)]), 0);
    assert_eq!(bench.answer(&[(STATUS, 1, WRITABLE)]), 1);
    // Half a header.
    assert_eq!(bench.answer(&[(HEADER, 8, 0), (STATUS, 1, WRITABLE)]), 1);
    // The header in pieces, status and data in one.
    assert_eq!(bench.answer(&[(HEADER, 3, 0), (HEADER + 3, 13, 0), (DATA, 513, WRITABLE)]), 513);
    assert_eq!(bench.request(99, 0, &[]), (2, 1));
}

#[test]
fn the_configuration_names_the_size() {
    let bench = Bench::new();
    let device = BlockDevice::writable(bench.file.try_clone().unwrap()).unwrap();
    let mut space = [0xff; 64];
    device.read_config(0, &mut space);
    assert_eq!(space[..8], (DISK_BYTES / 512).to_le_bytes());
    assert_eq!(space[60..], [0; 4]);
    device.read_config(u64::MAX, &mut space);
    assert_eq!(space, [0; 64]);
}

proptest! {
    /// No header and no framing panics, grows the disk, or makes a claim beyond the lent memory.
    #[test]
    fn no_request_does_harm(
        header: [u8; 16],
        small_kind in prop::option::of(0_u8..14),
        pieces in prop::collection::vec((0_u64..0x22_0000, 0_u32..70_000, any::<bool>()), 0..8),
    ) {
        let mut bench = Bench::new();
        let mut header = header;
        if let Some(kind) = small_kind {
            header[..4].copy_from_slice(&[kind, 0, 0, 0]);
            header[10..].fill(0);
        }
        bench.memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        let mut all = vec![(HEADER, 16, 0)];
        // The ring itself lies at the start of memory.
        all.extend(pieces.iter().map(|(at, length, write)| {
            (at + 0x10_0000, *length, if *write { WRITABLE } else { 0 })
        }));
        let room: u64 = all.iter().filter(|piece| piece.2 == WRITABLE).map(|piece| u64::from(piece.1)).sum();
        prop_assert!(u64::from(bench.answer(&all)) <= room);
        prop_assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
    }
}
