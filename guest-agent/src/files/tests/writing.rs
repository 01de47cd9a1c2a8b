//! Unpacking, by the rules of Docker's daemon.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use capsid_protocol::ErrorCode;
use capsid_tar::testing::{TestEntry, entry};

use super::ground::{Ground, archive, code, is_root};

fn file(name: &str) -> TestEntry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    entry(b'0', name).content("hello").owner(uid.into(), gid.into())
}

fn folder(name: &str, mode: u32) -> TestEntry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    entry(b'5', name).mode(mode).owner(uid.into(), gid.into())
}

fn ground() -> Ground {
    let ground = Ground::new();
    let root = ground.root();
    fs::create_dir_all(root.join("t/dir/in")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("t/file"), "x").unwrap();
    symlink("/etc", root.join("t/le")).unwrap();
    symlink("/t", root.join("lt")).unwrap();
    ground
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn names_are_below_the_folder_whatever_they_look_like() {
    let ground = ground();
    for path in ["/t", "/lt", "/lt/", "t/.", "/t/"] {
        let _ = fs::remove_dir_all(ground.root().join("t/x"));
        ground.write(path, &archive(&[file("/abs"), file("x/y/z"), file("./q/../a")])).unwrap();
        for name in ["abs", "x/y/z", "a"] {
            assert_eq!(text(&ground.root().join("t").join(name)), "hello", "{path} {name}");
        }
    }
    assert_eq!(ground.root().join("t/x/y").metadata().unwrap().mode() & 0o7777, 0o755);
    assert!(!ground.root().join("t/q").exists());
    ground.write("/t", &archive(&[file("le/through")])).unwrap();
    assert_eq!(text(&ground.root().join("etc/through")), "hello");
}

#[test]
fn what_is_no_folder_is_no_extraction_point() {
    let ground = ground();
    for path in ["/t/file", "/t/file/"] {
        let refusal = ground.write(path, &archive(&[file("a")])).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{path}");
        assert_eq!(refusal.message, "extraction point is not a directory");
    }
}

#[test]
fn what_is_in_the_way_is_replaced_unless_that_was_forbidden() {
    let ground = ground();
    let root = ground.root();
    let refused = ground.write_with("/t", true, None, &archive(&[file("dir")])).unwrap_err();
    assert_eq!(refused.message, "cannot overwrite directory \"/t/dir\" with non-directory \"/t\"");
    let refused = ground.write_with("/t", true, None, &archive(&[folder("file", 0o700)])).unwrap_err();
    assert_eq!(refused.message, "cannot overwrite non-directory \"/t/file\" with directory \"/t\"");
    assert!(root.join("t/dir/in").is_dir() && root.join("t/file").is_file());
    ground.write_with("/t", true, None, &archive(&[file("file"), folder("dir", 0o711)])).unwrap();
    assert_eq!(text(&root.join("t/file")), "hello");
    assert_eq!(root.join("t/dir").metadata().unwrap().mode() & 0o7777, 0o711);
    assert!(root.join("t/dir/in").is_dir(), "folders are merged");
    ground.write("/t", &archive(&[file("dir"), folder("file", 0o700), folder("le", 0o700)])).unwrap();
    assert!(root.join("t/dir").is_file() && root.join("t/file").is_dir());
    assert!(root.join("t/le").symlink_metadata().unwrap().is_dir() && root.join("etc").is_dir());
}

#[test]
fn modes_times_and_links_are_the_archives() {
    let ground = ground();
    let entries = [
        folder("sub", 0o500).mtime("5.25"),
        file("sub/f").mode(0o4755).mtime("1000000000.5"),
        file("sub/link").link("/no/where").mtime("7"),
        file("hard").link("sub/f"),
        file("old").mtime("-3.5"),
    ];
    let mut entries = entries.to_vec();
    entries[2] = entry(b'2', "sub/link").link("/no/where").mtime("7").owner(own().0, own().1);
    entries[3] = entry(b'1', "hard").link("/sub/f").mode(0o711).mtime("9").owner(own().0, own().1);
    ground.write("/t", &archive(&entries)).unwrap();
    let at = |name: &str| ground.root().join("t").join(name).symlink_metadata().unwrap();
    let time = |name: &str| (at(name).mtime(), at(name).mtime_nsec());
    assert_eq!((time("sub"), at("sub").mode() & 0o7777), ((5, 250_000_000), 0o500));
    assert_eq!((time("sub/link"), time("old")), ((7, 0), (-4, 500_000_000)));
    // The later entry for the same file counts.
    assert_eq!(
        (at("sub/f").ino(), at("sub/f").mode() & 0o7777, time("sub/f")),
        (at("hard").ino(), 0o711, (9, 0))
    );
    ground.write("/t", &archive(&[folder(".", 0o700).mtime("5"), file("")])).unwrap();
    assert_ne!((at(".").mode() & 0o7777, at(".").mtime()), (0o700, 5), "the folder itself stays as it is");
    fs::set_permissions(ground.root().join("t/sub"), fs::Permissions::from_mode(0o700)).unwrap();
}

fn own() -> (u64, u64) {
    (rustix::process::geteuid().as_raw().into(), rustix::process::getegid().as_raw().into())
}

#[test]
fn owners_devices_and_attributes_are_the_archives() {
    if !is_root() {
        return;
    }
    let ground = ground();
    let entries = [
        file("suid").mode(0o6755).owner(5, 6).xattr("user.note", b"kept\0"),
        entry(b'3', "null").device(1, 3).mode(0o666),
        entry(b'4', "disk").device(259, 1_000_000),
        entry(b'6', "pipe").mode(0o620).owner(7, 8),
        file("sparse").sparse(10_000, &[(5000, b"middle".to_vec())]),
    ];
    ground.write("/t", &archive(&entries)).unwrap();
    let at = |name: &str| ground.root().join("t").join(name).symlink_metadata().unwrap();
    assert_eq!((at("suid").uid(), at("suid").gid(), at("suid").mode() & 0o7777), (5, 6, 0o6755));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(ground.root().join("t/suid"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"kept\0");
    assert!(at("null").file_type().is_char_device() && at("null").rdev() == rustix::fs::makedev(1, 3));
    assert!(
        at("disk").file_type().is_block_device() && at("disk").rdev() == rustix::fs::makedev(259, 1_000_000)
    );
    assert!(at("pipe").file_type().is_fifo() && at("pipe").uid() == 7 && at("pipe").mode() & 0o7777 == 0o620);
    let sparse = fs::read(ground.root().join("t/sparse")).unwrap();
    assert!(sparse.len() == 10_000 && &sparse[5000..5006] == b"middle" && sparse[9999] == 0);
}

#[test]
fn everything_can_be_given_to_a_user_of_the_containers_own() {
    if !is_root() {
        return;
    }
    let ground = ground();
    fs::write(ground.root().join("etc/passwd"), "root:x:0:0::/:\nweb:x:33:44::/srv:\n").unwrap();
    let entries = archive(&[folder("d", 0o755), file("d/f").owner(9, 9)]);
    for (owner, expected) in [("web", (33, 44)), ("1000", (1000, 0)), ("7:8", (7, 8))] {
        ground.write_with("/t", false, Some(owner), &entries).unwrap();
        let found = ground.root().join("t/d/f").metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), expected, "{owner}");
    }
    assert_eq!(code(ground.write_with("/t", false, Some("nobody"), &entries)), ErrorCode::NotFound);
}

#[test]
fn an_archive_ends_where_go_ends_it() {
    let ground = ground();
    let whole = archive(&[file("a")]);
    for bytes in [&whole[..], &whole[..1024], &whole[..520], &[whole.as_slice(), b"rest"].concat(), &[]] {
        ground.write("/t", bytes).unwrap();
    }
    for bytes in [&whole[..515], &whole[..100], &b"garbage".repeat(200)] {
        assert_eq!(code(ground.write("/t", bytes)), ErrorCode::InvalidArgument);
    }
}
