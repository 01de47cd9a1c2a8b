//! Looking at paths and reading trees.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use capsid_protocol::{ErrorCode, FilesWork};
use capsid_tar::EntryKind;

use super::ground::{Ground, code, entries, names};

/// As the container of which Docker's daemon was asked the same.
fn ground() -> Ground {
    let ground = Ground::new();
    let root = ground.root();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("d/s")).unwrap();
    for (path, text) in [("etc/hosts", "h"), ("etc/passwd", "root"), ("d/f", "hi\n")] {
        fs::write(root.join(path), text).unwrap();
    }
    fs::hard_link(root.join("d/f"), root.join("d/h")).unwrap();
    for (target, link) in [
        ("/d", "ld"),
        ("../../../../etc", "d/up"),
        ("nowhere", "broken"),
        ("a", "b"),
        ("b", "a"),
        ("f", "d/lf"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    ground
}

#[test]
fn names_begin_with_the_last_part_of_the_path() {
    let ground = ground();
    let below = |base: &str| {
        let names = ["", "/f", "/h", "/lf", "/s/", "/up"];
        let mut names: Vec<String> = names.iter().map(|name| format!("{base}{name}")).collect();
        names[0].push('/');
        names
    };
    for (path, expected) in [
        ("/etc/hosts", vec!["hosts".to_owned()]),
        ("etc//../etc/hosts", vec!["hosts".to_owned()]),
        ("/d", below("d")),
        ("/d/", below("d")),
        ("/d/.", below(".")),
        ("/d/s/..", below("d")),
        ("/ld", vec!["ld".to_owned()]),
        ("/ld/", below("ld")),
        ("/ld/.", below(".")),
        ("/d/up/passwd", vec!["passwd".to_owned()]),
    ] {
        assert_eq!(names(&ground.read(path).unwrap()), expected, "{path}");
    }
    assert_eq!(names(&ground.read("/").unwrap())[..4], ["/", "/a", "/b", "/broken"]);
    assert_eq!(names(&ground.read("/.").unwrap())[..2], ["./", "./a"]);
}

#[test]
fn an_export_has_the_root_without_a_name() {
    let names = names(&ground().archive(&FilesWork::Export).unwrap());
    assert_eq!(names[..5], ["a", "b", "broken", "d/", "d/f"]);
}

#[test]
fn links_are_themselves_and_tell_where_they_lead_in_the_end() {
    let ground = ground();
    for (path, name, target, size) in [
        ("/ld", "ld", "/d", 2),
        ("/d/up", "up", "/etc", 15),
        ("/broken", "broken", "/nowhere", 7),
        ("/d/lf", "lf", "/d/f", 1),
        ("/d/f", "f", "", 3),
    ] {
        let stat = ground.stat(path).unwrap();
        assert_eq!((stat.name.as_str(), stat.link_target.as_str(), stat.size), (name, target, size));
    }
    let folder = ground.stat("/ld/").unwrap();
    assert_eq!(
        (folder.name.as_str(), folder.mode & 0o170_000, folder.link_target.as_str()),
        ("ld", 0o040_000, "")
    );
    assert_eq!(ground.stat("/").unwrap().name, "/");
    assert_eq!(ground.stat("/d/.").unwrap().name, ".");
}

#[test]
fn what_is_not_there_is_not_found_and_the_rest_says_why() {
    let ground = ground();
    for path in ["/none", "/none/", "/broken/", "/d/none/x"] {
        assert_eq!(code(ground.stat(path)), ErrorCode::NotFound, "{path}");
        assert_eq!(code(ground.read(path)), ErrorCode::NotFound, "{path}");
        assert_eq!(code(ground.write(path, &[])), ErrorCode::NotFound, "{path}");
    }
    for (path, words) in [
        ("/etc/passwd/", "not a directory"),
        ("/etc/passwd/x", "not a directory"),
        ("/a", "too many links"),
        ("/a/x", "too many links"),
    ] {
        let refusal = ground.stat(path).unwrap_err();
        assert!(refusal.code == ErrorCode::Internal && refusal.message.contains(words), "{refusal:?}");
    }
}

#[test]
fn several_names_of_a_file_are_one_file_and_sockets_are_left_out() {
    let ground = ground();
    let _listener = UnixListener::bind(ground.root().join("d/g")).unwrap();
    let found = entries(&ground.read("/d").unwrap());
    let link = found.iter().find(|entry| entry.path == b"d/h").unwrap();
    assert_eq!((&link.kind, link.size), (&EntryKind::HardLink(b"d/f".to_vec()), 0));
    assert!(!found.iter().any(|entry| entry.path == b"d/g"));
}

#[test]
fn names_that_no_header_holds_come_through() {
    let ground = Ground::new();
    let name = format!("{}\u{fc}", "n".repeat(200));
    let deep = ground.root().join(&name).join(&name);
    fs::create_dir_all(&deep).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o1711)).unwrap();
    let archive = ground.read(&name).unwrap();
    assert_eq!(names(&archive), [format!("{name}/"), format!("{name}/{name}/")]);
    assert_eq!(entries(&archive)[1].mode, 0o1711);
}
