use std::io::Write;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::*;

fn layer(byte: u8, pages: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![byte; pages * 4096]).unwrap();
    file
}

/// Reads through pieces of odd lengths, as a guest may lend them.
fn read(disk: &LayerDisk, offset: u64, length: usize) -> Vec<u8> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    memory.write_slice(&vec![0xaa; 4 << 20], GuestAddress(0)).unwrap();
    let slices = [(0, length / 3), (1 << 20, length / 2), (2 << 20, length - length / 3 - length / 2)]
        .map(|(at, count)| (GuestAddress(at), count));
    let pieces = slices.iter().map(|(at, count)| memory.get_slice(*at, *count).unwrap()).collect();
    disk.read(Pieces::of(pieces), offset).unwrap();
    let mut bytes = Vec::new();
    for (at, count) in slices {
        let mut part = vec![0; count];
        memory.read_slice(&mut part, at).unwrap();
        bytes.extend(part);
    }
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn layers_follow_each_other_as_partitions() {
    let disk = LayerDisk::new(vec![layer(1, 1), layer(2, 3), layer(3, 2)]).unwrap();
    assert_eq!(disk.bytes() % 4096, 0);
    let entries = read(&disk, 1024, 128 * 128);
    let partitions: Vec<(u64, u64)> =
        entries.chunks(128).take(4).map(|entry| (number(&entry[32..]), number(&entry[40..]))).collect();
    assert_eq!(partitions, [(128, 135), (136, 159), (160, 175), (0, 0)]);
    let all = read(&disk, FIRST_PARTITION, 6 * 4096);
    let expected: Vec<u8> = [1, 2, 2, 2, 3, 3].iter().flat_map(|byte| [*byte; 4096]).collect();
    assert_eq!(all, expected);
    let across = read(&disk, FIRST_PARTITION - 512, 1024);
    assert_eq!((across[511], across[512]), (0, 1));
}

#[test]
fn both_tables_are_sound() {
    for count in [1, 127, 128, 129, 240] {
        let disk = LayerDisk::new((0..count).map(|_| layer(7, 1)).collect()).unwrap();
        let last = disk.bytes() / 512 - 1;
        for (here, other) in [(1, last), (last, 1)] {
            let mut header = read(&disk, here * 512, 512);
            assert_eq!(&header[..8], b"EFI PART");
            assert_eq!((number(&header[24..]), number(&header[32..])), (here, other));
            let sum = u32::from_le_bytes(header[16..20].try_into().unwrap());
            header[16..20].fill(0);
            assert_eq!(sum, crc32(&header[..92]));
            let table = number(&header[72..]);
            let entry_count = u32::from_le_bytes(header[80..84].try_into().unwrap()) as usize;
            assert!(entry_count >= count.max(128));
            let entries = read(&disk, table * 512, entry_count * 128);
            assert_eq!(u32::from_le_bytes(header[88..92].try_into().unwrap()), crc32(&entries));
            assert_ne!(number(&entries[(count - 1) * 128 + 32..]), 0);
        }
        assert_eq!(read(&disk, 510, 2), [0x55, 0xaa]);
    }
}

#[test]
fn layers_of_odd_sizes_are_refused() {
    let odd = tempfile::tempfile().unwrap();
    odd.set_len(4097).unwrap();
    let empty = tempfile::tempfile().unwrap();
    for file in [odd, empty] {
        let error = LayerDisk::new(vec![layer(1, 1), file]).unwrap_err();
        assert!(error.to_string().starts_with("layer 1 has"), "{error}");
    }
}

#[test]
fn the_sum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
