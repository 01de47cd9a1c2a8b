//! Layers of well-formed entries, compared with a simple model of what unpacking them leaves.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use capsid_image::testing::{TarWriter, convert, entry};
use capsid_image::{Digest, Limits};
use libfuzzer_sys::fuzz_target;

/// Few names, so that entries meet; they sort on both sides of the dots, and one fills a block with few others.
const NAMES: [&str; 6] = ["a", "b", "+", ".x", "long", "z"];

#[derive(Arbitrary, Debug)]
enum Kind {
    Folder,
    File { pieces: Vec<(u8, u16)> },
    Symlink { length: u16 },
    Fifo,
}

#[derive(Arbitrary, Debug)]
struct TestEntry {
    path: Vec<u8>,
    kind: Kind,
    mode: u16,
    uid: u32,
    seconds: u32,
    attribute: Option<u16>,
}

/// Mode with type, owner, time, content.
type Modelled = (u16, u32, i64, Option<(u64, Digest)>);

fuzz_target!(|entries: Vec<TestEntry>| {
    let mut tar = TarWriter::new(Vec::new());
    let mut model: BTreeMap<Vec<u8>, Modelled> = BTreeMap::from([(Vec::new(), (0o040_755, 0, 0, None))]);
    for test in entries.iter().take(60) {
        let parts: Vec<String> = test.path.iter().take(4).map(|&name| name_of(name)).collect();
        let (Some(_), mode) = (parts.last(), test.mode & 0o7777) else { continue };
        let path = parts.join("/");
        let is_file =
            |path: &str| model.get(path.as_bytes()).is_some_and(|found| found.0 & 0o170_000 != 0o040_000);
        // A parent that is no folder is refused; see the tests of the crate.
        if (1..parts.len()).any(|depth| is_file(&parts[..depth].join("/"))) {
            continue;
        }
        let (kind, type_bits, content, link) = match &test.kind {
            Kind::Folder => (b'5', 0o040_000, None, String::new()),
            Kind::File { pieces } => {
                let bytes: Vec<u8> = pieces
                    .iter()
                    .take(8)
                    .flat_map(|&(byte, count)| vec![byte % 3; usize::from(count)])
                    .collect();
                (b'0', 0o100_000, Some(bytes), String::new())
            }
            Kind::Symlink { length } => (b'2', 0o120_000, None, "t".repeat(usize::from(*length) % 4095 + 1)),
            Kind::Fifo => (b'6', 0o010_000, None, String::new()),
        };
        let uid = test.uid.min(u32::MAX - 1);
        let mut written = entry(kind, &path).mode(mode.into()).owner(uid.into(), 0).link(&link);
        written = written.mtime(&test.seconds.to_string()).content(content.clone().unwrap_or_default());
        if let Some(length) = test.attribute.filter(|&length| length > 0) {
            written = written.xattr("user.a", &vec![1; usize::from(length)]);
        }
        tar.push(&written).expect("a Vec takes everything");

        for depth in 1..parts.len() {
            let parent = parts[..depth].join("/").into_bytes();
            model.entry(parent).or_insert((0o040_755, 0, 0, None));
        }
        if type_bits != 0o040_000 {
            let below = format!("{path}/").into_bytes();
            model.retain(|other, _| !other.starts_with(&below));
        }
        let mode = if type_bits == 0o120_000 { 0o120_777 } else { type_bits | mode };
        let content = content.map(|bytes| (bytes.len() as u64, Digest::of(&bytes)));
        model.insert(path.into_bytes(), (mode, uid, test.seconds.into(), content));
    }
    let stream = tar.finish().expect("a Vec takes everything");
    let found = convert(&stream, &Limits::default()).expect("well-formed entries are accepted");
    let found: BTreeMap<Vec<u8>, Modelled> = found
        .into_iter()
        .map(|(path, shown)| (path, (shown.mode, shown.uid, shown.mtime, shown.content)))
        .collect();
    assert_eq!(found, model);
});

fn name_of(number: u8) -> String {
    match NAMES[usize::from(number) % NAMES.len()] {
        "long" => "n".repeat(255 - usize::from(number / 6)),
        name => name.to_owned(),
    }
}
