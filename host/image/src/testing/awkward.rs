//! The awkward image.

use std::path::{Path, PathBuf};

use super::{ArchiveWriter, Packing, TarWriter, entry};
use capsid_tar::testing::TestEntry;

/// A file capability, version 2: `cap_net_raw=ep`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A POSIX ACL as the kernel stores it: owner rwx, user 1000 r-x, group r-x, mask r-x, others none.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
    16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// Writes an OCI archive with `layers` layers (at least one) to `dir` and returns its path. The image is called
/// `awkward:latest`.
///
/// The bottom layer has what file systems get wrong: all kinds of nodes, odd names, modes, owners, times,
/// attributes, hard links, sizes around the block size. Each further layer hides, replaces and adds to what the
/// ones before have: whiteouts, opaque folders, files for folders and the other way round, folders that it does
/// not describe. With `big_sparse` there is a file of 1 GiB with three small stretches of data.
pub fn awkward_image(dir: &Path, layers: usize, big_sparse: bool) -> PathBuf {
    awkward_image_packed(dir, layers, big_sparse, &[Packing::Gzip, Packing::Zstd, Packing::Plain])
}

/// The same with layers stored in the ways of `packings`, in turn; umoci, for one, cannot read zstd.
pub fn awkward_image_packed(dir: &Path, layers: usize, big_sparse: bool, packings: &[Packing]) -> PathBuf {
    awkward_image_with(dir, layers, big_sparse, packings, &[])
}

/// The same with further entries in the bottom layer, such as a program to look at the rest with.
pub fn awkward_image_with(
    dir: &Path,
    layers: usize,
    big_sparse: bool,
    packings: &[Packing],
    further: &[TestEntry],
) -> PathBuf {
    let path = dir.join("awkward.tar");
    write(&path, layers, big_sparse, packings, further)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn write(
    path: &Path,
    layers: usize,
    big_sparse: bool,
    packings: &[Packing],
    further: &[TestEntry],
) -> std::io::Result<()> {
    let mut archive = ArchiveWriter::create(path)?;
    for number in 0..layers.max(1) {
        let mut entries = if number == 0 { bottom() } else { upper(number) };
        if number == 0 {
            entries.extend(further.iter().cloned());
        }
        if number == 0 && big_sparse {
            let extents = [(4096, vec![1; 100]), (512 << 20, vec![2; 70_000]), ((1 << 30) - 7, vec![3; 7])];
            entries.push(entry(b'0', "files/sparse-1g").sparse(1 << 30, &extents));
        }
        let mut tar = TarWriter::new(Vec::new());
        entries.iter().try_for_each(|entry| tar.push(entry))?;
        archive.layer(&tar.finish()?, packings[number % packings.len()])?;
    }
    archive.finish("awkward:latest").map(drop)
}

/// Bytes that do not compress to nothing and are easy to check.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn bottom() -> Vec<TestEntry> {
    let mut entries = vec![
        entry(b'5', "./").mode(0o755).mtime("1000000000"),
        entry(b'5', "files/").mode(0o751).owner(12, 34).mtime("1234567890.123456789"),
        entry(b'5', "sticky").mode(0o1777),
        entry(b'5', "setgid").mode(0o2755).owner(0, 50),
        entry(b'0', "files/setuid").mode(0o4755).content("#!/bin/sh\n"),
        entry(b'0', "files/setgid").mode(0o2711).owner(0, 42).content("x"),
        entry(b'0', "files/none").mode(0).content("secret"),
        entry(b'0', "files/large-owner").owner(100_000, 4_000_000_000).content("y"),
        entry(b'0', "files/before-1970").mtime("-1.5").content("old"),
        entry(b'0', "files/far-future").mtime("17179869184.25").content("new"),
        entry(b'0', "files/capable").mode(0o755).content("z").xattr("security.capability", CAPABILITY),
        entry(b'0', "files/acl").mode(0o750).content("a").xattr("system.posix_acl_access", ACL),
        entry(b'5', "acl").xattr("system.posix_acl_default", ACL).xattr("user.note", b"a folder"),
        entry(b'0', "files/attributes")
            .content("b")
            .xattr("user.empty", b"")
            .xattr("user.binary", &[0, 10, 61, 255])
            .xattr("user.long", &noise(1, 3000))
            .xattr("trusted.secret", b"t"),
        entry(b'2', "files/link").link("../files/setuid"),
        entry(b'2', "files/absolute").link("/etc/passwd"),
        entry(b'2', "files/outside").link("../../../../etc/shadow"),
        entry(b'2', "files/dangling").link("nowhere"),
        entry(b'2', "files/long-target").link("t/".repeat(2000)),
        entry(b'1', "files/hard").link("files/setuid"),
        entry(b'1', "sticky/hard").link("/files/setuid"),
        entry(b'1', "files/hard-symlink").link("files/link"),
        entry(b'5', "dev"),
        entry(b'3', "dev/null").mode(0o666).device(1, 3),
        entry(b'4', "dev/loop").mode(0o660).owner(0, 6).device(7, 300),
        entry(b'6', "dev/pipe").mode(0o600),
        entry(b'0', format!("files/{}", "n".repeat(255))).content("long name"),
        entry(b'0', "files/\u{1b}[31m\n\t \"odd\"").content("odd name"),
        entry(b'0', [b"files/".as_slice(), &[0xff, 0xfe, b'x']].concat()).content("not UTF-8"),
        entry(b'0', "files/+plus").content("sorts before the dot"),
        entry(b'0', "files/zeros").content(vec![0; 200_000]),
        entry(b'0', "files/hole").content([noise(2, 65536), vec![0; 65536], noise(3, 100)].concat()),
        entry(b'0', "twice").content("first"),
        entry(b'0', "twice").mode(0o600).content("second"),
        entry(b'0', "implicit/in/the/bottom").content("no folder described me"),
    ];
    for size in [0, 1, 511, 512, 4095, 4096, 4097, 8191, 8192, 65535, 65536, 65537] {
        entries.push(entry(b'0', format!("files/size-{size}")).content(noise(size, size)));
    }
    entries.push(entry(b'5', "many").mode(0o700));
    entries
        .extend((0..3000).map(|index| entry(b'0', format!("many/file-{index}")).content(index.to_string())));
    for name in ["gone", "opaque", "to-file", "to-link", "kept"] {
        entries.push(entry(b'5', name).mode(0o750).owner(7, 8).xattr("user.from", b"the bottom"));
        entries.push(entry(b'0', format!("{name}/a")).content("a"));
        entries.push(entry(b'0', format!("{name}/b")).content("b"));
        entries.push(entry(b'5', format!("{name}/deep")).mode(0o711).mtime("1111111111"));
        entries.push(entry(b'0', format!("{name}/deep/c")).content("c"));
    }
    entries.push(entry(b'0', "to-folder").content("a file at first"));
    entries.push(entry(b'2', "link-to-file").link("files"));
    entries.push(entry(b'5', "deep/".repeat(40)).mode(0o705));
    entries
}

/// What layer `number` does depends on its number, so that a stack of any height has some of everything.
fn upper(number: usize) -> Vec<TestEntry> {
    let own = format!("layers/{number:03}");
    let mut entries = vec![
        // Neither `layers` nor the folder below it is described in every layer.
        entry(b'0', format!("{own}/data")).content(noise(number, 100 + number)).owner(number as u64, 0),
        entry(b'1', format!("{own}/hard")).link(format!("{own}/data")),
        entry(b'0', "kept/deep/latest").content(number.to_string()),
        entry(b'0', format!("deep/{}n{number}", "deep/".repeat(20))).content("n"),
    ];
    if number % 4 == 1 {
        entries.push(entry(b'5', "layers").mode(0o710).owner(3, number as u64).mtime(&format!("{number}")));
    }
    if number > 3 {
        entries.push(entry(b'0', format!("layers/.wh.{:03}", number - 3)));
    }
    match number % 7 {
        1 => entries.extend([
            entry(b'0', ".wh.gone"),
            entry(b'0', "files/.wh.setgid"),
            entry(b'0', "files/.wh.never-was-there"),
            entry(b'0', "fresh/.wh.nothing"),
        ]),
        2 => entries.extend([
            entry(b'0', "opaque/new").content("new"),
            entry(b'0', "opaque/.wh..wh..opq"),
            entry(b'0', "opaque/.wh.hidden-twice"),
        ]),
        3 => entries.extend([
            entry(b'0', "to-file").content("a file now"),
            entry(b'2', "to-link").link("kept"),
            entry(b'5', "to-folder").mode(0o700),
            entry(b'0', "to-folder/x").content("x"),
            entry(b'0', "link-to-file").content("no link any more"),
        ]),
        // The whiteout comes last and must not hide what this layer brings.
        4 => entries.extend([
            entry(b'5', "kept").mode(0o701),
            // umoci would keep the old folder here, because of the order.
            entry(b'5', "kept/deep").mode(0o703),
            entry(b'0', "kept/back").content("back"),
            entry(b'0', ".wh.kept"),
        ]),
        5 => entries.extend([
            entry(b'0', "gone/again").content("again"),
            entry(b'3', "dev/null").mode(0o600).device(1, 5),
            entry(b'0', "many/.wh.file-7"),
            entry(b'0', "many/file-8").mode(0o755).content("other"),
        ]),
        6 => entries.extend([
            entry(b'0', "gone/.wh.again"),
            entry(b'5', "to-file"),
            entry(b'0', "to-file/y").content("y"),
        ]),
        _ => entries.push(entry(b'5', "fresh").mode(0o777)),
    }
    entries
}
