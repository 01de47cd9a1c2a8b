//! A layer's tar stream from a stranger: refused, or converted into an image that reads back whole.
//!
//! The input is a stream, or a list of edits to a stream that has some of everything. Most damage ends at a header's
//! checksum, so another flag repairs the checksums first.
#![no_main]

use capsid_image::Limits;
use capsid_image::testing::{TarWriter, convert, entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, &[u8])| {
    let (repair, edit, bytes) = input;
    let limits = Limits {
        max_metadata_bytes: 8 << 20,
        max_extension_bytes: 64 << 10,
        // Holes are free; the reader behind `convert` hashes them all the same.
        max_layer_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut stream = if edit { edited(bytes) } else { bytes.to_vec() };
    if repair {
        stream.chunks_exact_mut(512).for_each(repair_checksum);
    }
    if names_huge_file(&stream) {
        return;
    }
    let _ = convert(&stream, &limits);
});

/// Applies edits of three bytes: a place and what to put there.
fn edited(edits: &[u8]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for entry in [
        entry(b'5', "d").xattr("trusted.overlay.opaque", b"y"),
        entry(b'0', "d/f").content(vec![7; 5000]).xattr("user.a", b"b").mtime("-1.5"),
        entry(b'1', "d/h").link("d/f"),
        entry(b'2', "d/l").link("t".repeat(200)),
        entry(b'0', "d/.wh.gone"),
        entry(b'0', "o/.wh..wh..opq"),
        entry(b'3', "null").device(1, 3),
        entry(b'0', "n".repeat(200)).owner(1 << 30, 0),
    ] {
        tar.push(&entry).expect("a Vec takes everything");
    }
    let mut stream = tar.finish().expect("a Vec takes everything");
    for edit in edits.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % stream.len();
        stream[place] = edit[2];
    }
    stream
}

fn repair_checksum(block: &mut [u8]) {
    if block.iter().all(|&byte| byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Sparse files may be larger than can be hashed in time.
fn names_huge_file(stream: &[u8]) -> bool {
    let sparse = stream.windows(11).any(|window| window == b"GNU.sparse.");
    sparse || stream.chunks(512).any(|block| block.get(156) == Some(&b'S'))
}
