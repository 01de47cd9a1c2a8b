//! Well-formed, malformed and random streams.

use proptest::prelude::*;

use super::*;
use crate::testing::{TestEntry, TestWriter, entry};

fn stream(entries: &[TestEntry]) -> Vec<u8> {
    let mut tar = TestWriter::new(Vec::new());
    entries.iter().for_each(|entry| tar.push(entry).unwrap());
    tar.finish().unwrap()
}

/// Reads everything: entries with their stored data.
fn read(bytes: &[u8], limits: TarLimits) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    read_all(TarReader::new(bytes, limits))
}

fn read_all(mut reader: TarReader<&[u8]>) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        while let data @ [_, ..] = reader.fill_data()? {
            content.extend_from_slice(data);
            let count = data.len();
            reader.consume_data(count);
        }
        found.push((entry, content));
    }
    Ok(found)
}

fn read_default(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    read(bytes, TarLimits::default())
}

fn refusal(bytes: &[u8]) -> String {
    read_default(bytes).unwrap_err().to_string()
}

#[test]
fn fields_that_do_not_fit_come_from_the_extended_header() {
    let long = "d/".repeat(200) + "f";
    let entries = [
        entry(b'0', &long)
            .content("abc")
            .owner(1 << 31, 3_000_000_000)
            .mtime("-2.25")
            .xattr("user.x", b"1\n2\0"),
        entry(b'2', "l").link(&long),
        entry(b'3', "c").device(4095, 7),
    ];
    let found = read_default(&stream(&entries)).unwrap();
    let (file, content) = &found[0];
    assert_eq!((file.path.as_slice(), content.as_slice()), (long.as_bytes(), b"abc".as_slice()));
    assert_eq!((file.uid, file.gid), (1 << 31, 3_000_000_000));
    assert_eq!(file.mtime, Timestamp { seconds: -3, nanoseconds: 750_000_000 });
    assert_eq!(file.xattrs, [Xattr { name: b"user.x".to_vec(), value: b"1\n2\0".to_vec() }]);
    assert_eq!(found[1].0.kind, EntryKind::Symlink(long.into_bytes()));
    assert_eq!(found[2].0.kind, EntryKind::CharacterDevice { major: 4095, minor: 7 });
}

#[test]
fn gnu_long_names_and_ustar_prefixes_are_names() {
    let mut tar = TestWriter::new(Vec::new());
    tar.push(&entry(b'L', "././@LongLink").content([vec![b'n'; 300], vec![0]].concat())).unwrap();
    tar.push(&entry(b'K', "././@LongLink").content([vec![b't'; 300], vec![0]].concat())).unwrap();
    tar.push(&entry(b'2', "short")).unwrap();
    let found = read_default(&tar.finish().unwrap()).unwrap();
    assert_eq!(found[0].0.path, [b'n'; 300]);
    assert_eq!(found[0].0.kind, EntryKind::Symlink(vec![b't'; 300]));
}

#[test]
fn sizes_that_disagree_are_refused() {
    // CVE-2025-62518: a reader that believes the smaller size finds entries inside the data.
    let inner = stream(&[entry(b'0', "smuggled")]);
    let size = inner.len().to_string();
    let honest = entry(b'0', "a").content(inner.clone());
    assert_eq!(read_default(&stream(std::slice::from_ref(&honest))).unwrap().len(), 1);
    for stated in ["0", "512", "1", "18446744073709551616", "-1", "9223372036854775808"] {
        let text = refusal(&stream(&[honest.clone().record("size", stated.as_bytes())]));
        assert!(text.contains("\"a\""), "{text}");
    }
    assert!(read_default(&stream(&[honest.record("size", size.as_bytes())])).is_ok());
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let text = refusal(&stream(&[entry(kind, "b").link("x").content(inner.clone())]));
        assert!(text.contains("can have none"), "{text}");
    }
}

#[test]
fn contradictions_and_unknown_types_are_refused() {
    let global = |key: &str| {
        let body = format!("{key}=x\n");
        let body = format!("{} {body}", body.len() + 3);
        stream(&[entry(b'g', "g").content(body), entry(b'0', "f")])
    };
    assert!(read_default(&global("a-comment")).is_ok());
    for key in ["path     ", "GNU.sparse.map", "SCHILY.xattr.user.a"] {
        let text = read_default(&global(key)).err().map(|error| error.to_string());
        assert_eq!(text.is_some_and(|text| text.contains("global")), !key.ends_with(' '), "{key}");
    }
    for record in ["10 path=x\n", "10 size=1\n", "14 linkpath=x\n"] {
        assert!(refusal(&stream(&[entry(b'g', "g").content(record), entry(b'0', "f")])).contains("global"));
    }
    let long_name = entry(b'L', "l").content("other\0");
    assert!(
        refusal(&stream(&[long_name.clone(), long_name.clone(), entry(b'0', "f")])).contains("contradict")
    );
    assert!(
        refusal(&stream(&[long_name.clone(), entry(b'0', "f").record("path", b"third")]))
            .contains("contradict")
    );
    assert!(refusal(&stream(&[long_name])).contains("no entry behind"));
    for kind in [b'M', b'V', b'D', b'8', 0x1b] {
        let text = refusal(&stream(&[entry(kind, "odd\x1b[2J")]));
        assert!(text.contains("not supported") && !text.contains('\x1b'), "{text:?}");
    }
}

#[test]
fn ends_are_checked() {
    let good = stream(&[entry(b'0', "f").content(vec![7; 600])]);
    assert!(read_default(&[good.as_slice(), &[0; 9 * 512]].concat()).is_ok());
    assert!(read_default(&good[..good.len() - 1024]).is_ok(), "the marker may be missing");
    assert!(refusal(&good[..good.len() - 1025]).contains("ends too early"));
    assert!(refusal(&good[..700]).contains("ends too early"));
    assert!(refusal(&[good.as_slice(), b"x"].concat()).contains("follow the end"));
    assert!(refusal(&[good.as_slice(), good.as_slice()].concat()).contains("follow the end"));
    let gap = [&good[..good.len() - 512], &good[..]].concat();
    assert!(refusal(&gap).contains("follows a block of zeros"));
    assert!(read_default(&[]).unwrap().is_empty());
    let mut damaged = good;
    damaged[0] ^= 1;
    assert!(refusal(&damaged).contains("checksum"));
}

#[test]
fn a_forgiving_reader_ends_where_go_does() {
    let forgiving = |bytes| read_all(TarReader::new(bytes, TarLimits::default()).forgiving());
    let good = stream(&[entry(b'0', "f").content(vec![7; 600])]);
    let padded = good.len() - 1024;
    for end in [padded, padded - 6, padded - 424] {
        assert_eq!(forgiving(&good[..end]).unwrap().len(), 1, "cut at {end}");
    }
    assert!(forgiving(&good[..padded - 425]).is_err(), "data is missing");
    assert!(forgiving(&good[..100]).is_err(), "half a header");
    let followed = [&good[..], b"more"].concat();
    let mut reader = TarReader::new(followed.as_slice(), TarLimits::default()).forgiving();
    while reader.next_entry().unwrap().is_some() {}
    assert_eq!(reader.into_input(), b"more");
}

#[test]
fn extended_headers_are_bounded() {
    let limits = TarLimits { max_extension_bytes: 1000, max_xattr_bytes: 100 };
    let name = entry(b'0', "f").record("comment", &[b'c'; 2000]);
    assert!(read(&stream(&[name]), limits).unwrap_err().to_string().contains("limit max-"));
    let attributes = entry(b'0', "f").xattr("user.a", &[1; 101]);
    assert!(read(&stream(&[attributes]), limits).unwrap_err().to_string().contains("\"f\""));
    // A size of exabytes must not be believed, let alone allocated.
    let huge = stream(&[entry(b'x', "h").size(0o77_777_777_777)]);
    assert!(read(&huge, limits).unwrap_err().to_string().contains("limit max-"));
}

#[test]
fn sparse_maps_of_every_format_are_read() {
    let extents = [(512, vec![1; 10]), (5000, vec![2; 20])];
    let found = read_default(&stream(&[entry(b'0', "s").sparse(10_000, &extents)])).unwrap();
    let expected = vec![Extent { offset: 512, length: 10 }, Extent { offset: 5000, length: 20 }];
    assert_eq!((found[0].0.size, found[0].0.sparse.as_ref()), (10_000, Some(&expected)));
    assert_eq!(found[0].1, [vec![1; 10], vec![2; 20]].concat());
    let stored = entry(b'0', "x").content([vec![1; 10], vec![2; 20]].concat());
    let flat = stored.clone().record("GNU.sparse.map", b"512,10,5000,20").record("GNU.sparse.size", b"10000");
    let repeated = stored.record("GNU.sparse.size", b"10000").record("GNU.sparse.numblocks", b"2");
    let repeated = repeated.record("GNU.sparse.offset", b"512").record("GNU.sparse.numbytes", b"10");
    let repeated = repeated.record("GNU.sparse.offset", b"5000").record("GNU.sparse.numbytes", b"20");
    for form in [flat, repeated] {
        assert_eq!(read_default(&stream(&[form])).unwrap()[0].0.sparse.as_ref(), Some(&expected));
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let stored = entry(b'0', "s").content(vec![1; 30]);
    for (map, size) in [
        ("0,10,5,20", "100"),
        ("0,10", "100"),
        ("0,31", "100"),
        ("0,10,90,20", "100"),
        ("18446744073709551615,30", "100"),
        ("0,30,1", "100"),
        ("0,-30", "100"),
        ("0,30", "18446744073709551615"),
    ] {
        let lie = stored
            .clone()
            .record("GNU.sparse.map", map.as_bytes())
            .record("GNU.sparse.size", size.as_bytes());
        assert!(refusal(&stream(&[lie])).contains("sparse map"), "{map} in {size}");
    }
    assert!(refusal(&stream(&[stored.record("GNU.sparse.major", b"2")])).contains("sparse map"));
    assert!(refusal(&stream(&[entry(b'S', "s").content("data without a map")])).contains("sparse map"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read_default(&bytes);
    }

    #[test]
    fn damaged_streams_never_panic(
        places in proptest::collection::vec((0usize..8192, any::<u8>()), 1..20), fix: bool,
    ) {
        let mut bytes = stream(&[
            entry(b'0', "a".repeat(120)).content(vec![1; 700]).xattr("user.a", b"b"),
            entry(b'0', "s").sparse(1 << 20, &[(0, vec![1; 5]), (4096, vec![2; 600])]),
            entry(b'2', "l").link("x"),
        ]);
        for (place, byte) in places {
            let place = place % bytes.len();
            bytes[place] = byte;
            if fix {
                // Most damage ends at the checksum; with a right one it goes deeper.
                let block = place / 512 * 512;
                let header = &mut bytes[block..block + 512];
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok(entries) = read_default(&bytes) {
            for (entry, content) in entries {
                prop_assert!(content.len() <= bytes.len());
                prop_assert!(entry.sparse.is_some() || entry.size == content.len() as u64);
            }
        }
    }
}
