//! Telling what differs, from a writable layer that is made by hand in overlayfs's form.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use capsid_protocol::ChangeKind::{self, Added, Deleted, Modified};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use super::ground::{Ground, is_root};

const THEN: i64 = 1_000_000_000;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    set_time(path, THEN);
}

fn set_time(path: &Path, seconds: i64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn remove(ground: &Ground, name: &str) {
    let path = ground.upper().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn hide(ground: &Ground, name: &str) {
    let path = ground.upper().join(name);
    fs::create_dir_all(&path).unwrap();
    rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}

fn ground() -> Ground {
    let ground = Ground::new();
    for name in ["etc/conf", "etc/passwd", "data/sub/file", "data/other", "root/x", "bin/ls"] {
        write(&ground.lower().join(name), "image");
    }
    ground
}

fn told(ground: &Ground) -> Vec<(ChangeKind, String)> {
    ground.changes()
}

fn expected(list: &[(ChangeKind, &str)]) -> Vec<(ChangeKind, String)> {
    list.iter().map(|(kind, path)| (*kind, (*path).to_owned())).collect()
}

#[test]
fn additions_removals_and_changes_are_told_with_the_folders_they_are_in() {
    if !is_root() {
        return;
    }
    let ground = ground();
    let upper = ground.upper();
    assert_eq!(told(&ground), []);
    remove(&ground, "etc/conf");
    write(&upper.join("etc/passwd"), "longer than it was");
    write(&upper.join("new/f"), "");
    remove(&ground, "root");
    fs::create_dir_all(upper.join("data/sub")).unwrap();
    fs::set_permissions(upper.join("data/sub"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        told(&ground),
        expected(&[
            (Modified, "/data"),
            (Modified, "/data/sub"),
            (Modified, "/etc"),
            (Deleted, "/etc/conf"),
            (Modified, "/etc/passwd"),
            (Added, "/new"),
            (Added, "/new/f"),
            (Deleted, "/root"),
        ])
    );
}

#[test]
fn what_was_only_touched_is_not_told() {
    if !is_root() {
        return;
    }
    let ground = ground();
    fs::create_dir_all(ground.upper().join("data/sub")).unwrap();
    write(&ground.upper().join("etc/conf"), "image");
    remove(&ground, "etc/never-was");
    assert_eq!(told(&ground), []);
    set_time(&ground.upper().join("etc/conf"), THEN + 1);
    assert_eq!(told(&ground), expected(&[(Modified, "/etc"), (Modified, "/etc/conf")]));
}

#[test]
fn a_folder_that_hides_the_images_has_removed_what_it_does_not_have() {
    if !is_root() {
        return;
    }
    let ground = ground();
    hide(&ground, "data");
    write(&ground.upper().join("data/new"), "");
    write(&ground.upper().join("data/other"), "image");
    assert_eq!(told(&ground), expected(&[(Modified, "/data"), (Added, "/data/new"), (Deleted, "/data/sub")]));
    // A folder that is all new hides nothing.
    hide(&ground, "fresh");
    assert!(told(&ground).contains(&(Added, "/fresh".to_owned())));
}

#[test]
fn a_thing_of_another_kind_is_modified_and_what_is_below_it_told_by_itself() {
    if !is_root() {
        return;
    }
    let ground = ground();
    write(&ground.upper().join("bin/ls/q"), "");
    write(&ground.upper().join("root"), "a file");
    assert_eq!(
        told(&ground),
        expected(&[(Modified, "/bin"), (Modified, "/bin/ls"), (Added, "/bin/ls/q"), (Modified, "/root")])
    );
}

#[test]
fn more_changes_than_fit_a_frame_all_come() {
    if !is_root() {
        return;
    }
    let ground = ground();
    for number in 0..3000 {
        write(&ground.upper().join(format!("many/a-rather-long-name-{number:04}")), "");
    }
    let told = told(&ground);
    assert_eq!(told.len(), 3001);
    assert!(told.is_sorted_by_key(|(_, path)| path.clone()));
}
