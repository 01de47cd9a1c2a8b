//! Loading, finding and removing; nothing left behind.

use std::collections::BTreeSet;
use std::io::{Cursor, Write};

use super::*;
use crate::limits::Limits;
use crate::reference::Reference;
use crate::testing::{ArchiveWriter, Packing, TarWriter, entry};

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Fixture { folder, store }
    }

    /// An archive whose layers each hold one file with the layer's text.
    fn archive(&self, name: &str, layers: &[&str]) -> PathBuf {
        let path = self.folder.path().join(format!("{}.tar", name.replace([':', '/'], "-")));
        let mut archive = ArchiveWriter::create(&path).unwrap();
        for text in layers {
            archive.layer(&layer(text), Packing::Gzip).unwrap();
        }
        archive.finish(name).unwrap()
    }

    fn load(&self, name: &str, layers: &[&str]) -> Digest {
        let source = LoadSource::Path(self.archive(name, layers));
        self.store.load(source, &Limits::default(), &()).unwrap()[0].id
    }

    fn remove(&self, name: &str, force: bool, uses: &[ImageUse]) -> Result<Vec<String>, String> {
        let in_use = |_: &Digest| uses.to_vec();
        let removed = self.store.remove(name, &RemoveOptions { force, in_use: &in_use });
        removed.map(|lines| lines.iter().map(Removed::to_string).collect()).map_err(|error| error.to_string())
    }

    /// All files but the lock, relative to the store.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.store.root().to_owned()];
        while let Some(folder) = waiting.pop() {
            for child in std::fs::read_dir(folder).unwrap() {
                let path = child.unwrap().path();
                if path.is_dir() { waiting.push(path) } else { _ = found.insert(path) }
            }
        }
        found.remove(&self.store.root().join("lock"));
        found
    }
}

fn layer(text: &str) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    tar.file(text, text.as_bytes()).unwrap();
    tar.finish().unwrap()
}

fn container(running: bool) -> ImageUse {
    ImageUse { container: "0123456789abcdef".to_owned(), running }
}

#[test]
fn loaded_images_are_found_by_name_and_id() {
    let fixture = Fixture::new();
    let id = fixture.load("registry.example:5000/a/b:1", &["x", "y"]);
    let summary = &fixture.store.images().unwrap()[0];
    assert_eq!((summary.id, summary.layers, summary.size), (id, 2, 2));
    let manifest = summary.manifest_digest;
    for name in [
        "registry.example:5000/a/b:1".to_owned(),
        format!("registry.example:5000/a/b@{manifest}"),
        id.to_string(),
        id.hex(),
        id.short(),
        format!("sha256:{}", &id.hex()[..5]),
    ] {
        let image = fixture.store.resolve(&name).unwrap();
        assert_eq!(image.id, id, "{name}");
        assert_eq!(image.open_layers().unwrap().len(), 2);
        assert_eq!(image.layers[0].size % 4096, 0);
        assert_eq!(image.reference.is_some(), name.contains('/'), "{name}");
    }
    for name in ["b", "registry.example:5000/a/b", "sha256:", "zz", "", "a/b@sha256:12", "ffffffffffff"] {
        assert!(matches!(fixture.store.resolve(name), Err(ResolveError::NotFound(_))), "{name}");
    }
}

#[test]
fn names_move_and_the_last_one_takes_the_image() {
    let fixture = Fixture::new();
    let old = fixture.load("app:1", &["base", "old"]);
    let new = fixture.load("app:1", &["base", "new"]);
    assert_eq!(fixture.store.resolve("app:1").unwrap().id, new);
    assert!(fixture.store.resolve(&old.hex()).unwrap().references.is_empty());
    assert_eq!(fixture.load("app:2", &["base", "new"]), new);
    assert_eq!(fixture.remove("app:1", false, &[]).unwrap(), ["Untagged: app:1"]);
    let text = fixture.remove("app:2", false, &[]).unwrap();
    assert_eq!(text[..2], ["Untagged: app:2".to_owned(), format!("Deleted: {new}")]);
    assert_eq!(text.len(), 3, "the shared layer stays: {text:?}");
    fixture.remove(&old.short(), false, &[]).unwrap();
    assert_eq!(fixture.files(), BTreeSet::from([fixture.store.root().join("images.json")]));
}

#[test]
fn removal_by_id_wants_force_for_several_names() {
    let fixture = Fixture::new();
    let id = fixture.load("a:1", &["x"]);
    fixture.load("b:1", &["x"]);
    let text = fixture.remove(&id.short(), false, &[]).unwrap_err();
    let expected = format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        id.short()
    );
    assert_eq!(text, expected);
    let text = fixture.remove(&id.short(), true, &[]).unwrap();
    assert_eq!(text[..3], ["Untagged: a:1".to_owned(), "Untagged: b:1".to_owned(), format!("Deleted: {id}")]);
    let one = fixture.load("a:1", &["x"]);
    assert_eq!(fixture.remove(&one.short(), false, &[]).unwrap()[0], "Untagged: a:1");
}

#[test]
fn images_in_use_are_kept() {
    let fixture = Fixture::new();
    let id = fixture.load("a:1", &["x"]);
    let stopped = [container(false)];
    let running = [container(true)];
    let text = fixture.remove("a:1", false, &stopped).unwrap_err();
    let expected = format!(
        "conflict: unable to remove repository reference \"a:1\" (must force) - container 0123456789ab is using its \
         referenced image {}",
        id.short()
    );
    assert_eq!(text, expected);
    assert!(
        fixture.remove(&id.hex(), false, &stopped).unwrap_err().contains("stopped container 0123456789ab")
    );
    assert!(fixture.remove(&id.hex(), true, &running).unwrap_err().contains("cannot be forced"));
    // By force and by name only the name goes while a container runs.
    let open = fixture.store.resolve("a:1").unwrap().open_layers().unwrap();
    assert_eq!(fixture.remove("a:1", true, &running).unwrap(), ["Untagged: a:1"]);
    assert_eq!(fixture.remove(&id.hex(), true, &stopped).unwrap()[0], format!("Deleted: {id}"));
    assert!(open[0].metadata().unwrap().len() > 0);
}

#[test]
fn a_hold_keeps_removal_waiting() {
    let fixture = Fixture::new();
    fixture.load("a:1", &["x"]);
    let hold = fixture.store.hold().unwrap();
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| fixture.remove("a:1", false, &[]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(fixture.store.resolve("a:1").unwrap().open_layers().is_ok());
        drop(hold);
        assert!(remover.join().unwrap().is_ok());
    });
    assert!(fixture.store.resolve("a:1").is_err());
}

#[test]
fn failures_and_crashes_leave_nothing() {
    let fixture = Fixture::new();
    let kept = fixture.load("kept", &["x"]);
    let before = fixture.files();
    let archive = std::fs::read(fixture.archive("other", &["y", "z"])).unwrap();
    for length in (0..archive.len()).step_by(256) {
        let source = LoadSource::Stream(Box::new(Cursor::new(archive[..length].to_vec())));
        if fixture.store.load(source, &Limits::default(), &()).is_err() {
            assert_eq!(fixture.files(), before, "after {length} bytes");
        } else {
            fixture.remove("other", false, &[]).unwrap();
        }
    }
    // What a process that was killed leaves: a folder whose lock nobody holds, and files no list knows.
    let root = fixture.store.root();
    std::fs::create_dir(root.join("staging/load-dead")).unwrap();
    std::fs::write(root.join("staging/load-dead/lock"), b"").unwrap();
    std::fs::write(root.join("staging/load-dead/0.erofs"), b"half").unwrap();
    std::fs::create_dir(root.join("staging/load-unborn")).unwrap();
    std::fs::write(root.join("layers/sha256").join(format!("{}.erofs", "0".repeat(64))), b"half").unwrap();
    std::fs::write(root.join("blobs/sha256").join("0".repeat(64)), b"half").unwrap();
    std::fs::write(root.join("images.json.new"), b"{").unwrap();
    let alive = Staging::create(&fixture.store.files).unwrap();
    let reopened = Store::open(root).unwrap();
    assert!(alive.path().exists(), "a living load keeps its folder");
    drop(alive);
    let mut after = fixture.files();
    after.remove(&root.join("images.json.new"));
    assert_eq!(after, before);
    assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    assert_eq!(reopened.resolve("kept").unwrap().id, kept);
}

#[test]
fn loads_and_removals_at_once_end_well() {
    let fixture = Fixture::new();
    let archives: Vec<PathBuf> = (0..3)
        .map(|index| fixture.archive(&format!("app:{index}"), &["base", &format!("own-{index}")]))
        .collect();
    std::thread::scope(|scope| {
        for (index, archive) in archives.iter().enumerate() {
            let fixture = &fixture;
            scope.spawn(move || {
                // A handle of its own, as another process would have.
                let store = Store::open(fixture.store.root()).unwrap();
                for _ in 0..10 {
                    store.load(LoadSource::Path(archive.clone()), &Limits::default(), &()).unwrap();
                    let hold = store.hold().unwrap();
                    assert_eq!(
                        store.resolve(&format!("app:{index}")).unwrap().open_layers().unwrap().len(),
                        2
                    );
                    drop(hold);
                    let in_use = |_: &Digest| Vec::new();
                    let options = RemoveOptions { force: false, in_use: &in_use };
                    store.remove(&format!("app:{index}"), &options).unwrap();
                }
            });
        }
    });
    assert_eq!(fixture.files().len(), 1);
}

#[test]
fn compressed_archives_and_streams_load_alike() {
    let fixture = Fixture::new();
    let plain = std::fs::read(fixture.archive("app", &["x", "y"])).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let mut ids = BTreeSet::new();
    for bytes in [plain, gzip.finish().unwrap(), zstd] {
        let path = fixture.folder.path().join("compressed");
        std::fs::write(&path, &bytes).unwrap();
        let loaded = fixture.store.load(LoadSource::Path(path), &Limits::default(), &()).unwrap();
        ids.insert(loaded[0].id);
        let source = LoadSource::Stream(Box::new(Cursor::new(bytes)));
        ids.insert(fixture.store.load(source, &Limits::default(), &()).unwrap()[0].id);
    }
    assert_eq!(ids.len(), 1);
    let limits = Limits { max_archive_bytes: 1000, ..Limits::default() };
    let path = fixture.folder.path().join("compressed");
    assert!(fixture.store.load(LoadSource::Path(path), &limits, &()).is_err());
}

#[test]
fn an_opaque_root_hides_whole_layers() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("opaque.tar");
    let mut archive = ArchiveWriter::create(&path).unwrap();
    archive.layer(&layer("x"), Packing::Plain).unwrap();
    let mut tar = TarWriter::new(Vec::new());
    tar.push(&entry(b'0', ".wh..wh..opq")).unwrap();
    tar.file("y", b"y").unwrap();
    archive.layer(&tar.finish().unwrap(), Packing::Zstd).unwrap();
    let source = LoadSource::Path(archive.finish("opaque").unwrap());
    fixture.store.load(source, &Limits::default(), &()).unwrap();
    assert_eq!(fixture.store.resolve("opaque").unwrap().layers.len(), 1);
}

#[test]
fn a_tag_is_one_images_and_survives_a_new_handle() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.load("one:1", &["a"]), fixture.load("other:1", &["b"]));
    let name = Reference::parse("name:x").unwrap();
    assert_eq!(fixture.store.tag("one:1", &name).unwrap(), one);
    assert_eq!(fixture.store.tag("other:1", &name).unwrap(), other);
    let again = Store::open(fixture.store.root()).unwrap();
    assert_eq!(again.resolve("name:x").unwrap().id, other);
    assert_eq!(again.resolve("one:1").unwrap().references.len(), 1);
    assert!(matches!(fixture.store.tag("nothing", &name), Err(TagError::Resolve(ResolveError::NotFound(_)))));
    let digest = Reference::parse(&format!("name@{one}")).unwrap();
    assert!(matches!(fixture.store.tag("one:1", &digest), Err(TagError::Digest)));
}

#[test]
fn what_images_share_is_counted_once() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.load("one", &["aa", "bbb"]), fixture.load("other", &["aa", "cccc"]));
    let usage = fixture.store.usage().unwrap();
    assert_eq!(usage.content_bytes, 2 + 3 + 4);
    assert_eq!(usage.images[&one], ImageUsage { size: 5, shared: 2 });
    assert_eq!(usage.images[&other], ImageUsage { size: 6, shared: 2 });
    assert!(usage.disk_bytes > 0);
}

#[test]
fn a_saved_archive_is_the_same_images_again() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.load("one:1", &["aa", "bbb"]), fixture.load("other:1", &["aa"]));
    let name = Reference::parse("example.org/a/b:c").unwrap();
    fixture.store.tag("one:1", &name).unwrap();
    let path = fixture.folder.path().join("saved.tar");
    let saved = fixture.store.save(&["one:1", "example.org/a/b:c", &other.to_string()]).unwrap();
    fixture.remove("one:1", true, &[]).unwrap();
    saved.write(std::fs::File::create(&path).unwrap()).unwrap();

    let elsewhere = Store::open(&fixture.folder.path().join("elsewhere")).unwrap();
    let loaded = elsewhere.load(LoadSource::Path(path), &Limits::default(), &()).unwrap();
    let ids: BTreeSet<Digest> = loaded.iter().map(|image| image.id).collect();
    assert_eq!(ids, BTreeSet::from([one, other]));
    assert_eq!(elsewhere.resolve("one:1").unwrap().id, one);
    assert_eq!(elsewhere.resolve("example.org/a/b:c").unwrap().id, one);
    assert!(elsewhere.resolve(&other.to_string()).unwrap().references.is_empty());
    assert!(matches!(fixture.store.save(&["other:1", "nothing"]), Err(SaveError::Resolve(_))));
    let staging = fixture.store.root().join("staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}
