//! Round trips through [`ErofsWriter`] and [`ErofsReader`].

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::reader::{ErofsReader, Inode};
use super::*;
use capsid_tar::Timestamp;

fn attributes(mode: u16) -> Attributes {
    Attributes { mode, ..Attributes::implicit_directory() }
}

fn writer() -> ErofsWriter<Cursor<Vec<u8>>> {
    ErofsWriter::new(Cursor::new(Vec::new()), &std::env::temp_dir(), 1 << 30).unwrap()
}

fn finish(writer: ErofsWriter<Cursor<Vec<u8>>>) -> Vec<u8> {
    let (output, summary) = writer.finish([7; 16]).unwrap();
    let image = output.into_inner();
    assert_eq!(image.len() as u64, summary.bytes);
    assert_eq!(image.len() % BLOCK_SIZE, 0);
    image
}

/// Writes `content` in pieces of `step`, whole runs of zeros as holes if asked to.
fn write(writer: &mut ErofsWriter<Cursor<Vec<u8>>>, content: &[u8], step: usize, holes: bool) -> FileData {
    let mut file = writer.begin_file(content.len() as u64).unwrap();
    for piece in content.chunks(step) {
        if holes && piece.iter().all(|&byte| byte == 0) {
            writer.write_hole(&mut file, piece.len() as u64).unwrap();
        } else {
            writer.write_file(&mut file, piece).unwrap();
        }
    }
    writer.end_file(file, inline_room(0)).unwrap()
}

fn read_all(image: &[u8]) -> BTreeMap<Vec<u8>, (Inode, Vec<u8>)> {
    let reader = ErofsReader::open(image).unwrap();
    let root = reader.root().unwrap();
    reader
        .list(&root)
        .unwrap()
        .into_iter()
        .map(|(name, number)| {
            let inode = reader.inode(number).unwrap();
            let content = match inode.is_directory() || inode.size > 64 << 20 {
                true => Vec::new(),
                false if inode.mode & S_IFMT == S_IFREG || inode.mode & S_IFMT == S_IFLNK => {
                    reader.content(&inode, 64 << 20).unwrap()
                }
                false => Vec::new(),
            };
            (name, (inode, content))
        })
        .collect()
}

#[test]
fn contents_of_every_shape_come_back() {
    let block = |byte: u8, count: usize| vec![byte; count];
    let chunk = 65536;
    let shapes: Vec<Vec<u8>> = vec![
        vec![],
        b"x".to_vec(),
        block(1, 3072),
        block(1, 3073),
        block(1, 4095),
        block(1, 4096),
        block(1, 4097),
        block(0, 4095),
        block(0, 4096),
        block(0, 100_000),
        block(0, chunk * 2),
        [block(1, chunk), block(0, chunk)].concat(),
        [block(0, chunk), block(1, chunk)].concat(),
        [block(1, chunk), block(0, chunk), block(2, 5)].concat(),
        [block(1, chunk), block(0, chunk + 5)].concat(),
        [block(0, chunk + 4096), block(3, 10)].concat(),
        [block(0, 4096), block(3, 10)].concat(),
        [block(1, chunk + 100), block(0, chunk - 100), block(1, 1)].concat(),
        [block(1, chunk - 1), block(0, chunk + 1), block(1, chunk), block(0, 3)].concat(),
    ];
    for step in [1000, 4096, 70_000] {
        for holes in [false, true] {
            let mut writer = writer();
            for (index, shape) in shapes.iter().enumerate() {
                let data = write(&mut writer, shape, step, holes);
                let name = format!("{index:02}");
                writer.tree.insert(ROOT, name.as_bytes(), attributes(0o644), Content::File(data)).unwrap();
            }
            let image = finish(writer);
            let found = read_all(&image);
            for (index, shape) in shapes.iter().enumerate() {
                let (inode, content) = &found[format!("{index:02}").as_bytes()];
                assert_eq!(content, shape, "shape {index}, step {step}, holes {holes}");
                assert_eq!(inode.mode, 0o100_644);
            }
            assert!(image.len() < 1 << 20, "zeros are holes: {}", image.len());
        }
    }
}

#[test]
fn sizes_past_four_gibibytes_cost_little() {
    let mut writer = writer();
    let size = (5 << 40) + 3;
    let mut file = writer.begin_file(size).unwrap();
    writer.write_hole(&mut file, 5 << 40).unwrap();
    writer.write_file(&mut file, b"end").unwrap();
    let data = writer.end_file(file, inline_room(0)).unwrap();
    writer.tree.insert(ROOT, b"big", attributes(0o600), Content::File(data)).unwrap();
    let image = finish(writer);
    assert!(image.len() < 1 << 20);
    let reader = ErofsReader::open(image.as_slice()).unwrap();
    let inode = reader.child(&reader.root().unwrap(), b"big").unwrap().unwrap();
    let mut end = [1; 5];
    reader.read(&inode, size - 5, &mut end).unwrap();
    assert_eq!(&end, b"\0\0end");
    assert!(matches!(self::writer().begin_file(u64::MAX), Err(ErofsError::FileTooLarge(_))));
}

#[test]
fn large_folders_are_sorted_and_complete() {
    let mut writer = writer();
    let folder = writer.tree.insert_directory(ROOT, b"d", attributes(0o755), false).unwrap();
    let names: Vec<String> =
        (0..20_000).map(|index| format!("{}{index}", ["+", "-", ".", "a"][index % 4])).collect();
    for name in &names {
        writer.tree.insert(folder, name.as_bytes(), attributes(0o600), Content::Fifo).unwrap();
    }
    let image = finish(writer);
    let reader = ErofsReader::open(image.as_slice()).unwrap();
    let inode = reader.child(&reader.root().unwrap(), b"d").unwrap().unwrap();
    let found: Vec<Vec<u8>> = reader.list(&inode).unwrap().into_iter().map(|(name, _)| name).collect();
    let mut sorted: Vec<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
    sorted.sort();
    assert_eq!(found, sorted);
}

#[test]
fn replaced_names_keep_counts_right() {
    let mut writer = writer();
    let tree = &mut writer.tree;
    let file = tree.insert(ROOT, b"a", attributes(0o600), Content::Symlink((*b"t").into())).unwrap();
    tree.link(ROOT, b"b", file).unwrap();
    tree.link(ROOT, b"b", file).unwrap();
    let folder = tree.insert_directory(ROOT, b"d", attributes(0o755), false).unwrap();
    tree.link(folder, b"c", file).unwrap();
    tree.insert(ROOT, b"d", attributes(0o600), Content::Fifo).unwrap();
    assert_eq!(tree.node(file).links, 2);
    let found = read_all(&finish(writer));
    assert_eq!(found[&b"b"[..]].0.links, 2);
    assert_eq!(found[&b"a"[..]].0.links, 2);
    assert_eq!(found[&b"d"[..]].0.mode, 0o010_600);
}

proptest! {
    #[test]
    fn any_attributes_come_back(
        mode in 0u16..0o10000, uid: u32, gid: u32, seconds: i64, nanoseconds in 0u32..1_000_000_000,
        xattrs in proptest::collection::btree_map("[a-z]{1,255}", proptest::collection::vec(any::<u8>(), 0..9000), 0..5),
        target in proptest::collection::vec(1u8..255, 1..4096), size in 0usize..9000,
    ) {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            xattrs.into_iter().map(|(name, value)| (format!("user.{name}").into_bytes(), value)).collect();
        let xattrs = encode_entries(pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice()))).unwrap();
        let mtime = Timestamp { seconds, nanoseconds };
        let attributes = Attributes { mode, uid, gid, mtime, xattrs };
        let room = inline_room(xattr_size(&attributes.xattrs, false));
        let mut writer = writer();
        let content = vec![5; size];
        let mut file = writer.begin_file(size as u64).unwrap();
        writer.write_file(&mut file, &content).unwrap();
        let data = writer.end_file(file, room).unwrap();
        writer.tree.insert(ROOT, b"f", attributes.clone(), Content::File(data)).unwrap();
        writer.tree.insert(ROOT, b"l", attributes.clone(), Content::Symlink(target.clone().into())).unwrap();
        let folder = writer.tree.insert_directory(ROOT, b"d", attributes, false).unwrap();
        writer.tree.directory_mut(folder).unwrap().opaque = true;
        let found = read_all(&finish(writer));
        for name in [b"f", b"l", b"d"] {
            let inode = &found[&name[..]].0;
            prop_assert_eq!((inode.mode & 0o7777, inode.uid, inode.gid, inode.mtime), (mode, uid, gid, mtime));
            let own = &inode.xattrs[..pairs.len()];
            prop_assert_eq!(own, &pairs[..]);
        }
        prop_assert_eq!(&found[&b"f"[..]].1, &content);
        prop_assert_eq!(&found[&b"l"[..]].1, &target);
        prop_assert!(found[&b"d"[..]].0.is_opaque());
    }
}
