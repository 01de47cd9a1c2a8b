//! What is read from one place and written to another is the same there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::ground::{Ground, is_root};

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    Folder,
    Symlink(Vec<u8>),
    HardLink(usize),
    Fifo,
    Device(u32, u32),
}

#[derive(Debug, Clone)]
struct Thing {
    /// In which of the earlier folders.
    folder: usize,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    attribute: Option<Vec<u8>>,
}

fn thing() -> impl Strategy<Value = Thing> {
    let name = vec((1_u8..=255).prop_filter("no slash", |byte| *byte != b'/'), 1..130)
        .prop_filter("a name", |name| name != b"." && name != b"..");
    let kind = prop_oneof![
        4 => vec(any::<u8>(), 0..3000).prop_map(Kind::File),
        4 => Just(Kind::Folder),
        1 => vec(1_u8..=255, 1..300).prop_map(Kind::Symlink),
        2 => any::<usize>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Kind::Device(major, minor)),
    ];
    let owner = (0_u32..1 << 31, 0_u32..1 << 31);
    let time = (0_i64..4_000_000_000, prop_oneof![Just(0_i64), 0_i64..1_000_000_000]);
    let attribute = proptest::option::of(vec(any::<u8>(), 1..100));
    let parts = (any::<usize>(), name, kind, 0_u32..0o10000, owner, time, attribute);
    parts.prop_map(|(folder, name, kind, mode, owner, time, attribute)| Thing {
        folder,
        name,
        kind,
        mode,
        owner,
        time,
        attribute,
    })
}

/// Makes the things below `root`, skipping those whose name is taken.
fn build(root: &Path, things: &[Thing]) {
    let mut folders = vec![root.to_owned()];
    let mut files = Vec::new();
    let mut made = Vec::new();
    for thing in things {
        let path = folders[thing.folder % folders.len()].join(OsStr::from_bytes(&thing.name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match &thing.kind {
            Kind::File(content) => {
                fs::write(&path, content).unwrap();
                files.push(path.clone());
            }
            Kind::Folder => {
                fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            Kind::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Kind::HardLink(_) if files.is_empty() => continue,
            Kind::HardLink(number) => {
                fs::hard_link(&files[number % files.len()], &path).unwrap();
                continue;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).unwrap();
            }
            Kind::Device(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), device).unwrap();
            }
        }
        made.push((path, thing));
    }
    // Last and from the inside out, since each of these changes the folder above.
    for (path, thing) in made.iter().rev() {
        let (uid, gid) = (Uid::from_raw(thing.owner.0), Gid::from_raw(thing.owner.1));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !matches!(thing.kind, Kind::Symlink(_)) {
            rustix::fs::chmod(path, Mode::from_raw_mode(thing.mode)).unwrap();
        }
        if let (Some(value), Kind::File(_) | Kind::Folder) = (&thing.attribute, &thing.kind) {
            rustix::fs::setxattr(path, "user.test", value, XattrFlags::empty()).unwrap();
        }
        let time = Timespec { tv_sec: thing.time.0, tv_nsec: thing.time.1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Everything there is to say of what is below a folder. Files with several names say the first of them.
fn describe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut described, mut first_names) = (BTreeMap::new(), BTreeMap::new());
    let mut ahead = vec![root.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let content = if metadata.is_file() {
                let first: &mut Vec<u8> =
                    first_names.entry(metadata.ino()).or_insert_with(|| relative.clone());
                if *first > relative {
                    first.clone_from(&relative);
                }
                fs::read(&path).unwrap()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            let mut value = [0; 200];
            let attribute = match metadata.is_symlink() {
                true => 0,
                false => rustix::fs::getxattr(&path, "user.test", &mut value).unwrap_or(0),
            };
            let facts = (metadata.mode(), metadata.uid(), metadata.gid(), metadata.rdev());
            let time = (metadata.mtime(), metadata.mtime_nsec());
            let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
            let ino = if metadata.is_file() { metadata.ino() } else { 0 };
            let said = format!("{facts:?} {time:?} {links} {content:?} {:?}", &value[..attribute]);
            described.insert(relative, (ino, said));
            if metadata.is_dir() {
                ahead.push(path);
            }
        }
    }
    let with_first = described.into_iter().map(|(path, (ino, said))| {
        let said = format!("{said} {:?}", first_names.get(&ino));
        (path, said)
    });
    with_first.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_read_and_written_is_the_same(things in vec(thing(), 0..40)) {
        if !is_root() {
            return Ok(());
        }
        let ground = Ground::new();
        let (from, to) = (ground.root().join("from"), ground.root().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        build(&from, &things);
        let archive = ground.read("/from/.").unwrap();
        ground.write("/to", &archive).unwrap();
        prop_assert_eq!(describe(&to), describe(&from));
    }
}
