//! What is written, read back by this crate and by GNU tar.

use std::io::Read;
use std::process::{Command, Stdio};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{TarLimits, TarReader, Xattr};

fn file(path: &str) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 1_000_000_000, nanoseconds: 0 },
        size: 0,
        xattrs: Vec::new(),
        data_offset: 0,
        sparse: None,
    }
}

fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry).unwrap();
        writer.data(content).unwrap();
    }
    writer.finish().unwrap()
}

fn read(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = TarReader::new(archive, TarLimits::default());
    let mut found = Vec::new();
    while let Some(mut entry) = reader.next_entry().unwrap() {
        entry.data_offset = 0;
        let mut content = Vec::new();
        while let data @ [_, ..] = reader.fill_data().unwrap() {
            content.extend_from_slice(data);
            let count = data.len();
            reader.consume_data(count);
        }
        found.push((entry, content));
    }
    found
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![1_u8..=255, Just(b'/'), Just(b'a')];
    vec(byte, 1..300).prop_filter("not a folder's", |name| name.last() != Some(&b'/'))
}

fn kind() -> impl Strategy<Value = EntryKind> {
    let number = 0..1_u64 << 20;
    prop_oneof![
        Just(EntryKind::File),
        Just(EntryKind::Directory),
        Just(EntryKind::Fifo),
        name().prop_map(EntryKind::HardLink),
        name().prop_map(EntryKind::Symlink),
        (number.clone(), number.clone())
            .prop_map(|(major, minor)| EntryKind::CharacterDevice { major, minor }),
        (number.clone(), number).prop_map(|(major, minor)| EntryKind::BlockDevice { major, minor }),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let xattr = (r"user\.[a-z.]{1,20}", vec(any::<u8>(), 1..200));
    let xattr = xattr.prop_map(|(name, value)| Xattr { name: name.into_bytes(), value });
    vec(xattr, 0..3).prop_map(|mut xattrs| {
        xattrs.sort_by(|one, other| one.name.cmp(&other.name));
        xattrs.dedup_by(|one, other| one.name == other.name);
        xattrs
    })
}

prop_compose! {
    fn entry()(
        path in name(),
        kind in kind(),
        mode in 0_u32..0o10000,
        (uid, gid) in any::<(u32, u32)>(),
        xattrs in xattrs(),
        seconds in -10_000_000_000_i64..100_000_000_000,
        nanoseconds in prop_oneof![Just(0), 0_u32..1_000_000_000],
        content in vec(any::<u8>(), 0..2000),
    ) -> (Entry, Vec<u8>) {
        let content = if kind == EntryKind::File { content } else { Vec::new() };
        let (uid, gid, size) = (uid.into(), gid.into(), content.len() as u64);
        let mtime = Timestamp { seconds, nanoseconds };
        (Entry { path, kind, mode, uid, gid, mtime, size, xattrs, ..file("") }, content)
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(entries in vec(entry(), 0..6)) {
        let mut expected = entries.clone();
        for (entry, _) in &mut expected {
            if entry.kind == EntryKind::Directory {
                entry.path.push(b'/');
            }
        }
        prop_assert_eq!(read(&archive(&entries)), expected);
    }
}

#[test]
fn sizes_beyond_octal_are_in_the_extended_header() {
    let size = 9 << 30;
    let mut writer = TarWriter::new(Vec::new());
    writer.entry(&Entry { size, ..file("big") }).unwrap();
    assert_eq!(writer.remaining(), size);
    let mut reader = TarReader::new(writer.output.as_slice(), TarLimits::default());
    assert_eq!(reader.next_entry().unwrap().unwrap().size, size);
}

#[test]
fn data_is_as_long_as_announced_or_an_error() {
    let mut writer = TarWriter::new(Vec::new());
    writer.entry(&Entry { size: 5, ..file("f") }).unwrap();
    assert!(writer.data(b"sixsix").is_err() && writer.entry(&file("next")).is_err());
    writer.data(b"four").unwrap();
    assert!(writer.finish().is_err());
    assert!(TarWriter::new(Vec::new()).entry(&file("")).is_err());
    assert!(TarWriter::new(Vec::new()).entry(&file("a\0b")).is_err());
}

#[test]
fn attributes_that_no_archive_holds_are_left_out() {
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
    let xattrs = vec![xattr("user.a=b", b"1"), xattr("user.empty", b""), xattr("user.kept", b"=\n\0")];
    let found = read(&archive(&[(Entry { xattrs, ..file("f") }, Vec::new())]));
    assert_eq!(found[0].0.xattrs, [xattr("user.kept", b"=\n\0")]);
}

#[test]
fn gnu_tar_reads_the_archive_without_a_word() {
    let long = format!("{}/\u{fc}", "d".repeat(120));
    let entries = [
        (Entry { kind: EntryKind::Directory, mode: 0o755, ..file("d") }, Vec::new()),
        (Entry { size: 3, uid: 3_000_000, ..file(&long) }, b"abc".to_vec()),
        (Entry { kind: EntryKind::HardLink(long.clone().into_bytes()), ..file("hard") }, Vec::new()),
        (Entry { kind: EntryKind::CharacterDevice { major: 1, minor: 3 }, ..file("null") }, Vec::new()),
    ];
    let mut tar = Command::new("tar")
        .args(["--utc", "--full-time", "--quoting-style=literal", "-tvf", "-"])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&archive(&entries)).unwrap();
    let mut complaints = String::new();
    tar.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    let listing = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
    let squeezed: Vec<String> =
        listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "drwxr-xr-x 0/0 0 2001-09-09 01:46:40 d/".to_owned(),
        format!("-rw-r--r-- 3000000/0 3 2001-09-09 01:46:40 {long}"),
        format!("hrw-r--r-- 0/0 0 2001-09-09 01:46:40 hard link to {long}"),
        "crw-r--r-- 0/0 1,3 2001-09-09 01:46:40 null".to_owned(),
    ];
    assert_eq!((squeezed, complaints.as_str()), (expected.to_vec(), ""));
}
