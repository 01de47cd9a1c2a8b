//! Archives of every kind, and documents that lie.

use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::limits::Limits;
use crate::store::{LoadSource, LoadedImage, Store};
use crate::testing::{TarWriter, entry};

/// Members by name, written as a tar archive or a folder.
struct Members(Vec<(String, Vec<u8>)>);

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Members {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.push((name.to_owned(), bytes.to_vec()));
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.add(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// A manifest of one layer with `text` in it, for a platform, changed by `change`.
    fn image(&mut self, architecture: &str, text: &str, change: impl FnOnce(&mut Value)) -> Value {
        let tar = layer(text);
        let layer = self.blob(LAYER, &tar);
        let config = self.json("application/vnd.oci.image.config.v1+json", &config(architecture, &tar));
        let mut manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        change(&mut manifest);
        self.json(MANIFEST, &manifest)
    }

    fn index(mut self, manifests: &[Value]) -> Members {
        self.add("index.json", json!({ "schemaVersion": 2, "manifests": manifests }).to_string().as_bytes());
        self
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        self.0.iter().for_each(|(name, bytes)| tar.file(name, bytes).unwrap());
        tar.finish().unwrap()
    }

    fn load(&self) -> Result<Vec<LoadedImage>, String> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let source = LoadSource::Stream(Box::new(Cursor::new(self.tar())));
        store.load(source, &Limits::default(), &()).map_err(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        })
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err()
    }
}

fn layer(text: &str) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    tar.push(&entry(b'0', "file").content(text)).unwrap();
    tar.finish().unwrap()
}

fn config(architecture: &str, tar: &[u8]) -> Value {
    json!({
        "architecture": architecture, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(tar)] },
    })
}

fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn members() -> Members {
    Members(Vec::new())
}

fn named(mut descriptor: Value, key: &str, name: &str) -> Value {
    descriptor["annotations"] = json!({ key: name });
    descriptor
}

fn names(loaded: &[LoadedImage]) -> Vec<String> {
    loaded.iter().flat_map(|image| image.references.iter().map(ToString::to_string)).collect()
}

#[test]
fn archives_of_several_images_give_several_names() {
    let mut archive = members();
    let one = archive.image(here(), "one", |_| ());
    let two = archive.image(here(), "two", |_| ());
    let manifests = [
        named(one.clone(), "io.containerd.image.name", "docker.io/library/one:1"),
        named(one, "org.opencontainers.image.ref.name", "uno"),
        named(two.clone(), "org.opencontainers.image.ref.name", "ghcr.io/a/two:2"),
    ];
    let loaded = archive.index(&manifests).load().unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(names(&loaded), ["one:1", "uno:latest", "ghcr.io/a/two:2"]);
    let mut unnamed = members();
    let image = unnamed.image(here(), "three", |_| ());
    assert!(names(&unnamed.index(&[image]).load().unwrap()).is_empty());
}

#[test]
fn the_platform_of_this_machine_is_chosen() {
    let mut archive = members();
    let platform = |mut descriptor: Value, architecture: &str| {
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        descriptor
    };
    let other = platform(archive.image("s390x", "other", |_| ()), "s390x");
    let own = platform(archive.image(here(), "own", |_| ()), here());
    let mut attestation = platform(archive.image("unknown", "attestation", |_| ()), "unknown");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let inner = json!({ "schemaVersion": 2, "manifests": [attestation, other.clone(), own] });
    let inner = archive.json(INDEX, &inner);
    let outer = json!({ "schemaVersion": 2, "manifests": [inner] });
    let outer = named(archive.json(INDEX, &outer), "io.containerd.image.name", "multi");
    let loaded = archive.index(&[outer]).load().unwrap();
    assert_eq!(names(&loaded), ["multi:latest"]);

    let mut foreign = members();
    let only = platform(foreign.image("s390x", "other", |_| ()), "s390x");
    assert!(foreign.index(&[only]).refusal().contains("it has \"linux/s390x\""));
    let mut lying = members();
    let image = platform(lying.image("s390x", "other", |_| ()), here());
    assert!(lying.index(&[image]).refusal().contains("it has \"linux/s390x\""));
}

#[test]
fn docker_archives_load_with_or_without_links() {
    let tar = layer("docker");
    let config = config(here(), &tar).to_string().into_bytes();
    let id = Digest::of(&config);
    let manifest = json!([{ "Config": format!("{}.json", id.hex()), "RepoTags": ["app:1", "host:5000/app:2"],
        "Layers": ["abc/layer.tar"] }]);
    let mut archive = members();
    archive.add(&format!("{}.json", id.hex()), &config);
    archive.add("manifest.json", manifest.to_string().as_bytes());
    let mut linked = TarWriter::new(archive.tar()[..archive.tar().len() - 1024].to_vec());
    linked.push(&entry(b'2', "abc/layer.tar").link("../def/layer.tar")).unwrap();
    linked.file("def/layer.tar", &tar).unwrap();
    archive.add("abc/layer.tar", &tar);
    let loaded = archive.load().unwrap();
    assert_eq!((loaded[0].id, names(&loaded)), (id, vec!["app:1".to_owned(), "host:5000/app:2".to_owned()]));

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let source = LoadSource::Stream(Box::new(Cursor::new(linked.finish().unwrap())));
    assert_eq!(store.load(source, &Limits::default(), &()).unwrap()[0].id, id);
    // The manifest that was made up for it can be read like any other.
    let image = store.resolve("app:1").unwrap();
    let path = store.root().join("blobs/sha256").join(image.manifest_digest.hex());
    let manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(manifest["layers"][0]["digest"], json!(Digest::of(&tar)));

    let mut lying = members();
    lying.add("manifest.json", manifest_for("0".repeat(64)).as_bytes());
    lying.add(&format!("{}.json", "0".repeat(64)), &config);
    assert!(lying.refusal().contains("has digest"));
}

fn manifest_for(hex: String) -> String {
    json!([{ "Config": format!("{hex}.json"), "Layers": ["l"] }]).to_string()
}

#[test]
fn layouts_in_folders_are_read_without_following_links() {
    let mut archive = members();
    let image = named(archive.image(here(), "x", |_| ()), "io.containerd.image.name", "x");
    let archive = archive.index(&[image]);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &archive.0 {
        let path = folder.path().join("layout").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let store = Store::open(&folder.path().join("store")).unwrap();
    let load = || store.load(LoadSource::Path(folder.path().join("layout")), &Limits::default(), &());
    load().unwrap();
    let index = folder.path().join("layout/index.json");
    std::fs::rename(&index, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", &index).unwrap();
    assert!(load().is_err());
}

#[test]
fn documents_that_lie_are_refused() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut archive = members();
        let image = archive.image(here(), "x", change);
        archive.index(&[image])
    };
    assert!(with(&|_| ()).load().is_ok());
    let none = with(&|manifest| manifest["layers"] = json!([]));
    assert!(none.refusal().contains("0 layers in its manifest and 1 in its configuration"));
    assert!(with(&|m| m["layers"][0]["size"] = json!(1)).refusal().contains("instead of 1"));
    assert!(with(&|m| m["layers"][0]["digest"] = json!("sha512:00")).refusal().contains("malformed"));
    assert!(with(&|m| m["layers"][0]["digest"] = json!(Digest::of(b""))).refusal().contains("is missing"));
    assert!(
        with(&|m| m["layers"][0]["mediaType"] = json!("text/plain\u{1b}"))
            .refusal()
            .contains("not supported")
    );
    let gzip = with(&|m| m["layers"][0]["mediaType"] = json!(format!("{LAYER}+gzip")));
    assert!(gzip.refusal().contains("says gzip, but its content is an uncompressed"));
    let foreign = with(&|m| m["layers"][0]["urls"] = json!(["https://example.com/layer"]));
    assert!(foreign.refusal().contains("is to be downloaded"));
    assert!(with(&|m| m["config"]["size"] = json!(3)).refusal().contains("instead of 3"));

    let mut empty = members();
    let config =
        json!({ "architecture": here(), "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = empty.json("application/vnd.oci.image.config.v1+json", &config);
    let manifest = empty.json(MANIFEST, &json!({ "schemaVersion": 2, "config": config, "layers": [] }));
    assert!(empty.index(&[manifest]).refusal().contains("has no layers"));

    let mut wrong = members();
    let mut image = wrong.image(here(), "x", |_| ());
    let name = format!("blobs/sha256/{}", image["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    let position = wrong.0.iter().position(|(other, _)| *other == name).unwrap();
    wrong.0[position].1.push(b' ');
    image["size"] = json!(wrong.0[position].1.len());
    assert!(wrong.index(&[image]).refusal().contains("has digest"));
}

#[test]
fn archives_that_are_none_are_refused() {
    assert!(members().refusal().contains("neither an OCI image"));
    assert!(members().index(&[]).refusal().contains("has no image"));
    let mut deep = members();
    let mut inner = deep.image(here(), "x", |_| ());
    for _ in 0..6 {
        inner = deep.json(INDEX, &json!({ "schemaVersion": 2, "manifests": [inner] }));
    }
    assert!(deep.index(&[inner]).refusal().contains("nested too deeply"));
    let mut twice = members().index(&[]);
    twice.add("./index.json", b"{}");
    assert!(twice.refusal().contains("two members"));
    let mut large = members();
    large.add("index.json", &vec![b' '; 5 << 20]);
    assert!(large.refusal().contains("limit max-"));
    let mut nested = members();
    nested.add("index.json", &[b'['; 100_000]);
    assert!(nested.refusal().contains("malformed"));
}
