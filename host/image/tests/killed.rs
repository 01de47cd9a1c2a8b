//! Loads that are killed at any moment leave a store that is whole, and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use capsid_image::testing::awkward_image;
use capsid_image::{Digest, Limits, LoadSource, RemoveOptions, Store};

/// Tells this program that it is the victim: the store and the archive, separated by a line break.
const VICTIM: &str = "CAPSID_IMAGE_TEST_VICTIM";

fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for child in std::fs::read_dir(folder).unwrap() {
            let path = child.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

/// Not a test by itself: run by [`a_killed_load_leaves_nothing`], and passes at once otherwise.
#[test]
fn victim() {
    let Ok(arguments) = std::env::var(VICTIM) else { return };
    let (root, archive) = arguments.split_once('\n').unwrap();
    let store = Store::open(Path::new(root)).unwrap();
    loop {
        store.load(LoadSource::Path(archive.into()), &Limits::default(), &()).unwrap();
        let in_use = |_: &Digest| Vec::new();
        store.remove("awkward", &RemoveOptions { force: true, in_use: &in_use }).unwrap();
    }
}

#[test]
fn a_killed_load_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let archive = awkward_image(folder.path(), 12, false);
    let root = folder.path().join("store");
    for round in 0..40u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env(VICTIM, format!("{}\n{}", root.display(), archive.display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // From before the first file to well into the second load.
        std::thread::sleep(Duration::from_millis(5 + round * round % 397));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&root).unwrap();
        for image in store.images().unwrap() {
            let image = store.resolve(&image.id.to_string()).unwrap();
            assert_eq!(image.open_layers().unwrap().len(), image.file_system_layers().count());
            for layer in image.file_system_layers() {
                assert_eq!(layer.path.metadata().unwrap().len(), layer.size);
            }
            let in_use = |_: &Digest| Vec::new();
            store.remove(&image.id.to_string(), &RemoveOptions { force: true, in_use: &in_use }).unwrap();
        }
        let rest = files(&root).len();
        assert!(rest <= 2, "round {round}: {:?}", files(&root));
        assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    }
}
