//! OCI's rules, and what is refused.

use std::io::Cursor;

use super::*;
use crate::digest::Digest;
use crate::erofs::reader::{ErofsReader, Inode};
use crate::limits::Limits;
use crate::testing::{TarWriter, TestEntry, entry};

fn stream(entries: &[TestEntry]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    entries.iter().for_each(|entry| tar.push(entry).unwrap());
    tar.finish().unwrap()
}

fn convert_with(entries: &[TestEntry], limits: &Limits) -> Result<(Vec<u8>, notes::Notes), LayerError> {
    let bytes = stream(entries);
    let output = Cursor::new(Vec::new());
    let converted = convert(bytes.as_slice(), output, &std::env::temp_dir(), limits, &mut |_| {})?;
    let (output, notes) = converted.finish([1; 16]).unwrap();
    Ok((output.into_inner(), notes))
}

/// An image that can be asked for paths.
struct Converted {
    image: Vec<u8>,
    notes: notes::Notes,
}

impl Converted {
    fn of(entries: &[TestEntry]) -> Converted {
        let (image, notes) = convert_with(entries, &Limits::default()).unwrap();
        Converted { image, notes }
    }

    fn inode(&self, path: &str) -> Option<Inode> {
        let reader = ErofsReader::open(self.image.as_slice()).unwrap();
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(reader.root().unwrap(), |folder, name| reader.child(&folder, name.as_bytes()).unwrap())
    }

    fn content(&self, path: &str) -> Vec<u8> {
        let reader = ErofsReader::open(self.image.as_slice()).unwrap();
        reader.content(&self.inode(path).unwrap(), 1 << 20).unwrap()
    }
}

fn refusal(entries: &[TestEntry]) -> String {
    match convert_with(entries, &Limits::default()) {
        Err(LayerError::Tar(error)) => error.to_string(),
        Err(error) => error.to_string(),
        Ok(_) => panic!("accepted {entries:?}"),
    }
}

fn file(path: &str) -> TestEntry {
    entry(b'0', path).content(path)
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for path in ["../a", "a/../../b", "..", "a/.."] {
        assert!(refusal(&[file(path)]).contains("\"..\" is not allowed"), "{path}");
    }
    assert!(refusal(&[entry(b'0', "x").record("path", b"a\0b")]).contains("path value"));
    assert!(refusal(&[entry(b'0', "n".repeat(256))]).contains("longer than 255"));
    assert!(refusal(&[entry(b'0', "d/".repeat(2100))]).contains("longer than 4095"));
    assert!(refusal(&[entry(b'0', "./")]).contains("root must be a directory"));
    let absolute = Converted::of(&[file("/etc/passwd"), entry(b'2', "l").link("/etc/shadow")]);
    assert_eq!(absolute.content("etc/passwd"), b"/etc/passwd");
    assert_eq!(absolute.content("l"), b"/etc/shadow");
}

#[test]
fn parents_that_are_no_folders_are_refused() {
    for kind in [b'0', b'2', b'3', b'6'] {
        let parent = entry(kind, "a").link("/etc");
        for child in [file("a/b"), entry(b'5', "a/b"), entry(b'0', "a/.wh.b"), entry(b'0', "a/.wh..wh..opq")]
        {
            let text = refusal(&[parent.clone(), child]);
            assert!(text.contains("parent \"a\" is not a directory"), "{text}");
        }
    }
    // A link may be replaced, by a file as well as by a folder.
    let replaced = Converted::of(&[
        entry(b'2', "a").link("/etc"),
        file("a"),
        entry(b'2', "b").link("/"),
        entry(b'5', "b"),
        file("b/c"),
    ]);
    assert_eq!(replaced.content("a"), b"a");
    assert_eq!(replaced.content("b/c"), b"b/c");
}

#[test]
fn hard_links_stay_inside_and_come_after() {
    let link = |path: &str, target: &str| entry(b'1', path).link(target);
    assert!(refusal(&[link("a", "b"), file("b")]).contains("no earlier entry"));
    assert!(refusal(&[link("a", "a")]).contains("no earlier entry"));
    assert!(refusal(&[link("a", "../etc/passwd")]).contains("\"..\" is not allowed"));
    assert!(refusal(&[entry(b'5', "d"), link("a", "d")]).contains("directory"));
    assert!(refusal(&[link("a", "/")]).contains("directory"));
    assert!(
        refusal(&[entry(b'2', "s").link("d"), entry(b'5', "d"), file("d/f"), link("a", "s/f")])
            .contains("no earlier")
    );
    assert!(refusal(&[file("f"), entry(b'0', ".wh.g"), link("a", "g")]).contains("no earlier"));
    let linked = Converted::of(&[file("f"), link("a", "/f"), link("b", "./a"), file("f")]);
    assert_eq!(linked.inode("a").unwrap().links, 2);
    assert_eq!(linked.content("b"), b"f");
    assert_eq!(linked.inode("f").unwrap().links, 1);
}

#[test]
fn the_last_entry_of_a_name_counts() {
    let last = Converted::of(&[
        file("a"),
        entry(b'0', "a").content("second").mode(0o600),
        entry(b'5', "d").mode(0o700),
        file("d/x"),
        entry(b'5', "d").mode(0o711),
        entry(b'5', "e"),
        file("e/x"),
        entry(b'6', "e"),
    ]);
    assert_eq!(last.content("a"), b"second");
    assert_eq!(last.inode("d").unwrap().mode & 0o7777, 0o711);
    assert!(last.inode("d/x").is_some() && last.inode("e/x").is_none());
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let entries = [entry(b'0', "d/.wh.a"), file("d/a"), entry(b'0', "d/.wh.b")];
        let layer = Converted::of(&order.map(|index| entries[index].clone()));
        assert_eq!(layer.content("d/a"), b"d/a");
        assert!(layer.inode("d/b").unwrap().is_whiteout());
        let folder = Converted::of(
            &order.map(|index| [entry(b'0', ".wh.f"), file("f/x"), entry(b'5', "f")][index].clone()),
        );
        assert!(folder.inode("f").unwrap().is_opaque());
        assert_eq!(folder.content("f/x"), b"f/x");
    }
    let opaque = Converted::of(&[file("o/new"), entry(b'0', "o/.wh..wh..opq"), entry(b'0', "o/.wh.old")]);
    assert!(opaque.inode("o").unwrap().is_opaque());
    assert!(opaque.inode("o/old").is_none(), "a whiteout below an opaque folder hides nothing");
    assert!(Converted::of(&[entry(b'0', ".wh..wh..opq")]).notes.opaque_root);
    let aufs = Converted::of(&[entry(b'5', ".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file("x")]);
    assert!(aufs.inode(".wh..wh.plnk").is_none() && aufs.inode("x").is_some());
    for path in [".wh.", ".wh..", ".wh...", "d/.wh..", ".wh.a/b"] {
        assert!(refusal(&[file(path)]).contains("whiteout is malformed"), "{path}");
    }
}

#[test]
fn overlay_attributes_of_an_image_have_no_effect() {
    let layer = Converted::of(&[
        entry(b'5', "d").xattr("trusted.overlay.opaque", b"y").xattr("trusted.overlay.redirect", b"/etc"),
        entry(b'0', "f").xattr("com.apple.provenance", b"x").xattr("user.kept", b"1"),
    ]);
    let folder = layer.inode("d").unwrap();
    assert!(!folder.is_opaque());
    let names: Vec<&[u8]> = folder.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [&b"trusted.overlay.overlay.opaque"[..], b"trusted.overlay.overlay.redirect"]);
    assert_eq!(layer.inode("f").unwrap().xattrs, [(b"user.kept".to_vec(), b"1".to_vec())]);
    let big = entry(b'0', "f").xattr("user.a", &vec![1; 65_536]);
    assert!(refusal(&[big]).contains("value is too long"));
}

#[test]
fn numbers_out_of_range_are_refused() {
    assert!(refusal(&[file("a").owner(1 << 32, 0)]).contains("out of range"));
    assert!(refusal(&[file("a").owner(0, u64::from(u32::MAX))]).contains("out of range"));
    assert!(refusal(&[entry(b'3', "a").device(4096, 0)]).contains("out of range"));
    assert!(refusal(&[entry(b'4', "a").device(0, 1 << 20)]).contains("out of range"));
    assert!(refusal(&[entry(b'2', "a")]).contains("symbolic link's target"));
    assert!(refusal(&[entry(b'2', "a").link("t".repeat(4096))]).contains("symbolic link's target"));
}

#[test]
fn limits_hold() {
    let entries: Vec<TestEntry> = (0..20).map(|index| file(&format!("f{index}"))).collect();
    let limits = Limits { max_entries: 10, ..Limits::default() };
    assert!(convert_with(&entries, &limits).err().unwrap().to_string().contains("more than 10 entries"));
    let limits = Limits { max_metadata_bytes: 1000, ..Limits::default() };
    assert!(matches!(convert_with(&entries, &limits), Err(LayerError::Write { .. })));
    // Few bytes that make very many folders.
    let deep: Vec<TestEntry> =
        (0..50).map(|index| entry(b'5', format!("{index}/{}", "d/".repeat(500)))).collect();
    let limits = Limits { max_metadata_bytes: 10 << 20, ..Limits::default() };
    assert!(matches!(convert_with(&deep, &limits), Err(LayerError::Write { .. })));
    // A hole is free on the disk and must not be in memory either.
    let holes: Vec<TestEntry> =
        (0..100).map(|index| entry(b'0', format!("{index}")).sparse(1 << 44, &[])).collect();
    let limits = Limits { max_metadata_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(convert_with(&holes, &limits), Err(LayerError::Write { .. })));
}

/// Runs [`ingest`] on a blob with claims that may be wrong.
fn ingest_blob(
    blob: &[u8],
    claims: impl FnOnce(&mut LayerSource<'_>),
    limits: &Limits,
) -> Result<(), IngestError> {
    let folder = tempfile::tempdir().unwrap();
    let mut image = tempfile::tempfile_in(folder.path()).unwrap();
    let mut copy = tempfile::tempfile_in(folder.path()).unwrap();
    let mut source = LayerSource {
        reader: Box::new(std::io::Cursor::new(blob.to_vec())),
        size: blob.len() as u64,
        digest: Some(Digest::of(blob)),
        compression: None,
        diff_id: Digest::of(&stream(&[file("a")])),
    };
    claims(&mut source);
    let outputs = Outputs { blob: Some(&mut copy), image: Some(&mut image), scratch: folder.path() };
    ingest(source, outputs, limits, &|_| (), &mut |_| ()).map(drop)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn members_frames_and_skippable_frames_are_one_stream() {
    let tar = stream(&[file("a")]);
    let (head, rest) = tar.split_at(700);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let limits = Limits::default();
    for blob in [
        tar.clone(),
        gzip(&tar),
        [gzip(head), gzip(rest), gzip(b"")].concat(),
        zstd(&tar),
        [zstd(head), skippable.clone(), zstd(rest)].concat(),
        [skippable, zstd(&tar)].concat(),
    ] {
        ingest_blob(&blob, |_| (), &limits).unwrap();
    }
}

#[test]
fn lies_about_a_blob_are_refused() {
    let tar = stream(&[file("a")]);
    let blob = gzip(&tar);
    let limits = Limits::default();
    let check = |claims: &dyn Fn(&mut LayerSource<'_>)| ingest_blob(&blob, claims, &limits).unwrap_err();
    assert!(matches!(check(&|source| source.digest = Some(Digest::of(b""))), IngestError::BlobDigest { .. }));
    assert!(matches!(check(&|source| source.diff_id = Digest::of(b"")), IngestError::DiffId { .. }));
    assert!(matches!(check(&|source| source.size += 1), IngestError::Size { .. }));
    let wrong = check(&|source| source.compression = Some(Compression::Zstd)).to_string();
    assert!(wrong.contains("says zstd") && wrong.contains("is gzip"), "{wrong}");
    assert!(matches!(check(&|source| source.size -= 1), IngestError::Size { .. }));
    let garbage = [blob.as_slice(), b"garbage behind it"].concat();
    assert!(matches!(ingest_blob(&garbage, |_| (), &limits), Err(IngestError::Decompress { .. })));
    assert!(matches!(
        ingest_blob(&blob[..blob.len() - 9], |_| (), &limits),
        Err(IngestError::Decompress { .. })
    ));
    let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
    assert!(matches!(
        ingest_blob(&zstd[..zstd.len() - 2], |_| (), &limits),
        Err(IngestError::Decompress { .. })
    ));
    let garbage = [zstd.as_slice(), b"garbage"].concat();
    assert!(matches!(ingest_blob(&garbage, |_| (), &limits), Err(IngestError::Decompress { .. })));
}

#[test]
fn bombs_are_refused() {
    let blob = gzip(&stream(&[entry(b'0', "zeros").content(vec![0; 8 << 20])]));
    let small = Limits { max_layer_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(ingest_blob(&blob, |_| (), &small), Err(IngestError::TooLarge(_))));
    let strict = Limits { ratio_floor: 1 << 20, max_ratio: 100, ..Limits::default() };
    assert!(matches!(ingest_blob(&blob, |_| (), &strict), Err(IngestError::Ratio(100))));
}
