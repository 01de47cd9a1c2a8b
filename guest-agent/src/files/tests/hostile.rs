//! Archives and containers that mean harm.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use capsid_protocol::{BodyReader, BodyWriter, ErrorCode, FilesWork, OpeningReply};
use capsid_tar::testing::{TestEntry, entry};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use super::ground::{Ground, archive, code, end, names, reply};

fn file(name: &str) -> TestEntry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    entry(b'0', name).content("evil").owner(uid.into(), gid.into())
}

fn link(name: &str, target: &str) -> TestEntry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    entry(b'2', name).link(target).owner(uid.into(), gid.into())
}

/// A root with a folder `t`, and a folder beside the root that must stay empty.
fn ground() -> (Ground, PathBuf) {
    let ground = Ground::new();
    fs::create_dir(ground.root().join("t")).unwrap();
    let beside = ground.outside().join("beside");
    fs::create_dir(&beside).unwrap();
    (ground, beside)
}

#[test]
fn names_that_climb_are_refused_and_what_came_before_stays() {
    let (ground, _) = ground();
    for name in ["../esc", "a/../../esc", "/../esc", "..", "../t/back"] {
        let refusal = ground.write("/t", &archive(&[file("before"), file(name)])).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert!(refusal.message.contains("is outside of \"/t\""), "{}", refusal.message);
    }
    assert!(ground.root().join("t/before").is_file());
    assert!(!ground.root().join("esc").exists());
    for target in ["../etc/passwd", "..", "a/../../x", "", "."] {
        let hard = entry(b'1', "h").link(target);
        assert_eq!(code(ground.write("/t", &archive(&[hard]))), ErrorCode::InvalidArgument, "{target}");
    }
}

#[test]
fn links_lead_nowhere_but_into_the_root() {
    let (ground, beside) = ground();
    let outside = beside.to_str().unwrap().to_owned();
    let climbing = "../".repeat(40) + &outside[1..];
    let entries = [
        link("absolute", &outside),
        link("climbing", &climbing),
        link("top", "/"),
        link("up", "../../../../../.."),
        file("top/by-top"),
        file("up/by-up"),
    ];
    ground.write("/t", &archive(&entries)).unwrap();
    for name in ["by-top", "by-up"] {
        assert!(ground.root().join(name).is_file(), "{name}");
    }
    // Nothing is made where a link leads nowhere, as with mkdir -p.
    for name in ["absolute/x", "climbing/x"] {
        assert_eq!(code(ground.write("/t", &archive(&[file(name)]))), ErrorCode::Internal, "{name}");
    }
    assert_eq!(code(ground.write("/t/absolute", &archive(&[file("x")]))), ErrorCode::NotFound);
    // A file takes a link's place, not that of what it leads to.
    let kept = beside.join("kept");
    fs::write(&kept, "kept").unwrap();
    symlink(&kept, ground.root().join("t/file")).unwrap();
    ground.write("/t", &archive(&[file("file")])).unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    // A hard link to a link is another name of the link.
    symlink(&kept, ground.root().join("t/soft")).unwrap();
    ground.write("/t", &archive(&[entry(b'1', "hard").link("soft").owner(own().0, own().1)])).unwrap();
    assert!(ground.root().join("t/hard").symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 1);
    assert_eq!(code(ground.read("/t/absolute/")), ErrorCode::NotFound);
}

fn own() -> (u64, u64) {
    (rustix::process::geteuid().as_raw().into(), rustix::process::getegid().as_raw().into())
}

#[test]
fn what_linux_cannot_have_is_refused() {
    let (ground, _) = ground();
    let long = "d/".repeat(3000) + "f";
    let cases = [
        (file(&"n".repeat(300)), ErrorCode::Internal),
        (file(&long), ErrorCode::Internal),
        (link("l", &"t".repeat(5000)), ErrorCode::Internal),
        (file("f").owner(1 << 32, 0), ErrorCode::InvalidArgument),
        (file("f").owner(0, u64::from(u32::MAX)), ErrorCode::InvalidArgument),
        (entry(b'3', "c").device(1 << 12, 0), ErrorCode::InvalidArgument),
        (entry(b'Z', "z"), ErrorCode::InvalidArgument),
        (file("s").sparse(i64::MAX as u64, &[(0, b"x".to_vec())]), ErrorCode::Internal),
        (entry(b'x', "pax").size(0o77_777_777_777), ErrorCode::InvalidArgument),
    ];
    for (entry, expected) in cases {
        let refusal = ground.write("/t", &archive(std::slice::from_ref(&entry))).unwrap_err();
        assert_eq!(refusal.code, expected, "{refusal:?}");
        assert!(refusal.message.len() < 1000, "{}", refusal.message);
    }
}

#[test]
fn a_refusal_comes_while_the_host_still_sends() {
    let (ground, _) = ground();
    let work = FilesWork::WriteTree { path: "/t".into(), no_overwrite_dir_non_dir: false, owner: None };
    let said = ground.with_worker(&work, |host| {
        assert_eq!(reply(host), OpeningReply::Files);
        // Far more than the connection holds, behind an entry that is refused.
        let mut body = BodyWriter::new(&mut *host);
        body.write_all(&archive(&[file("../esc")])).unwrap();
        for _ in 0..64 {
            body.write_all(&[0; 1 << 16]).unwrap();
        }
        body.finish().unwrap();
        end(host)
    });
    assert_eq!(code(said), ErrorCode::InvalidArgument);
}

#[test]
fn a_body_without_its_end_is_no_archive() {
    let (ground, _) = ground();
    let work = FilesWork::WriteTree { path: "/t".into(), no_overwrite_dir_non_dir: false, owner: None };
    for cut in [0, 3, 100, 600] {
        let whole = archive(&[file("a").content(vec![1; 5000])]);
        let said = ground.with_worker(&work, |host| {
            assert_eq!(reply(host), OpeningReply::Files);
            let mut wire = (u32::try_from(whole.len()).unwrap()).to_le_bytes().to_vec();
            wire.extend(&whole);
            host.write_all(&wire[..cut]).unwrap();
            host.shutdown(std::net::Shutdown::Write).unwrap();
            end(host)
        });
        assert!(said.is_err(), "cut at {cut}");
    }
    // Nor is one whose host vanishes.
    ground.with_worker(&work, |host| assert_eq!(reply(host), OpeningReply::Files));
    ground.with_worker(&FilesWork::ReadTree { path: "/".into() }, |_| ());
}

#[test]
fn trees_as_deep_as_paths_go_are_read_and_deeper_ones_refused_and_all_removed() {
    let (ground, _) = ground();
    let mut folder = rustix::fs::open(ground.root().join("t"), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..2100 {
        rustix::fs::mkdirat(&folder, "d", Mode::from_raw_mode(0o755)).unwrap();
        folder = rustix::fs::openat(&folder, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(code(ground.read("/t")), ErrorCode::Internal);
    let removed = ground.write("/", &archive(&[file("t")]));
    assert_eq!(code(removed), ErrorCode::Internal, "it is deeper than anything honest");
    // In parts it goes.
    let middle = ground.root().join("t").join("d/".repeat(1000));
    fs::rename(&middle, ground.root().join("rest")).unwrap();
    ground.write("/", &archive(&[file("t"), file("rest")])).unwrap();
    assert!(ground.root().join("t").is_file() && ground.root().join("rest").is_file());
}

#[test]
fn a_container_that_swaps_folders_for_links_all_the_while_gets_nobody_out() {
    let (ground, beside) = ground();
    let root = ground.root();
    fs::create_dir_all(root.join("t/d/e")).unwrap();
    fs::write(beside.join("secret"), "secret").unwrap();
    symlink(&beside, root.join("t/escape")).unwrap();
    symlink("../".repeat(30) + beside.to_str().unwrap(), root.join("t/climb")).unwrap();
    let folder = rustix::fs::open(root.join("t/d"), OFlags::PATH, Mode::empty()).unwrap();
    let stop = AtomicBool::new(false);
    let swap = |one: &str, other: &str| {
        let (one, other) = (root.join(one), root.join(other));
        let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap("t/d", "t/escape");
                swap("t/d", "t/climb");
                // Out of the folder from which a worker may just be going up.
                let _ = rustix::fs::renameat(&folder, "e", CWD, root.join("e"));
                let _ = rustix::fs::renameat(CWD, root.join("e"), &folder, "e");
            }
        });
        for round in 0..300 {
            let entries = [file("d/x"), file("d/e/y"), file(&format!("d/n{round}/z")), file("d/secret")];
            let _ = ground.write("/t", &archive(&entries));
            if let Ok(archive) = ground.read("/t/d/") {
                let names = names(&archive);
                assert!(!names.is_empty());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let names: Vec<_> = fs::read_dir(&beside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(fs::read_to_string(beside.join("secret")).unwrap(), "secret");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_as_long_as_it_said() {
    let (ground, _) = ground();
    let big = ground.root().join("t/big");
    fs::write(&big, vec![7; 8 << 20]).unwrap();
    let read = ground.with_worker(&FilesWork::ReadTree { path: "/t".into() }, |host| {
        assert!(matches!(reply(host), OpeningReply::Path(_)));
        // The worker waits for the connection by now, in the middle of the file.
        fs::OpenOptions::new().write(true).truncate(true).open(&big).unwrap();
        let mut archive = Vec::new();
        BodyReader::new(&mut *host).read_to_end(&mut archive).unwrap();
        end(host).unwrap();
        archive
    });
    assert_eq!(names(&read), ["t/", "t/big"]);
}
