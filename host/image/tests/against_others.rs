//! Layers against the truth: what `umoci unpack` makes of the same image, what `fsck.erofs` says, and what the
//! kernel shows when it mounts the layers and stacks them.
//!
//! Needs root, umoci, skopeo and fsck.erofs, and for the last part a kernel that mounts EROFS files. Without them
//! a test is skipped with a reason; with `CAPSID_REQUIRE=all` in the environment it fails instead.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use capsid_image::testing::{Composed, Packing, awkward_image_packed, compose};
use capsid_image::{Digest, Image, Limits, LoadSource, Store};

type Tree = BTreeMap<Vec<u8>, Composed>;

/// Says why a test cannot run here, or fails if everything is required.
fn missing(what: &str) -> bool {
    assert!(std::env::var_os("CAPSID_REQUIRE").is_none_or(|value| value != "all"), "required: {what}");
    eprintln!("skipped: {what}");
    true
}

fn skipped() -> bool {
    if !rustix::process::geteuid().is_root() {
        return missing("needs root");
    }
    for tool in ["umoci", "skopeo", "fsck.erofs"] {
        if Command::new(tool).arg("--help").output().is_err() {
            return missing(&format!("needs {tool}"));
        }
    }
    false
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// Loads an archive and checks each layer with erofs-utils.
fn load(folder: &Path, archive: &Path) -> Image {
    let store = Store::open(&folder.join("store")).unwrap();
    let loaded = store.load(LoadSource::Path(archive.to_owned()), &Limits::default(), &()).unwrap();
    let image = store.resolve(&loaded[0].id.to_string()).unwrap();
    for layer in image.file_system_layers() {
        run(Command::new("fsck.erofs").arg("--extract").arg(&layer.path));
    }
    image
}

fn unpack(folder: &Path, archive: &Path) -> PathBuf {
    let layout = folder.join("layout");
    let source = format!("oci-archive:{}", archive.display());
    run(Command::new("skopeo").args(["copy", "-q", &source, &format!("oci:{}:image", layout.display())]));
    let bundle = folder.join("bundle");
    let image = format!("{}:image", layout.display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    bundle.join("rootfs")
}

/// Reads a real folder as [`compose`] reads layers.
fn walk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![(Vec::new(), root.to_owned())];
    while let Some((name, path)) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            for child in fs::read_dir(&path).unwrap() {
                let child = child.unwrap();
                let slash: &[u8] = if name.is_empty() { b"" } else { b"/" };
                let name = [&name, slash, child.file_name().as_bytes()].concat();
                waiting.push((name, child.path()));
            }
        }
        tree.insert(name, describe(&path, &metadata));
    }
    tree
}

fn describe(path: &Path, metadata: &fs::Metadata) -> Composed {
    let kind = metadata.mode() & 0o170_000;
    let device = metadata.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Composed {
        mode: u16::try_from(metadata.mode()).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        mtime_nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap(),
        links: if metadata.is_dir() { 1 } else { u32::try_from(metadata.nlink()).unwrap() },
        xattrs: xattrs(path),
        target: metadata.is_symlink().then(|| fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
        device: if matches!(kind, 0o020_000 | 0o060_000) {
            minor & 0xff | major << 8 | (minor & !0xff) << 12
        } else {
            0
        },
        content: metadata.is_file().then(|| (metadata.len(), digest(path))),
    }
}

fn digest(path: &Path) -> Digest {
    let mut content = Vec::new();
    File::open(path).unwrap().read_to_end(&mut content).unwrap();
    Digest::of(&content)
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 1 << 16];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        // umoci's own notes and overlayfs's.
        .filter(|(name, _)| {
            !name.starts_with(b"user.rootlesscontainers") && !name.starts_with(b"trusted.overlay.")
        })
        .collect()
}

/// Lists where two trees differ, at most a few.
fn differences(
    ours: &Tree,
    theirs: &Tree,
    same: impl Fn(&[u8], &Composed, &Composed) -> bool,
) -> Vec<String> {
    let names: std::collections::BTreeSet<&Vec<u8>> = ours.keys().chain(theirs.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (ours, theirs) = (ours.get(name), theirs.get(name));
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && same(name, ours, theirs)
        {
            continue;
        }
        found.push(format!("\"{}\":\n  ours   {ours:?}\n  theirs {theirs:?}\n", name.escape_ascii()));
    }
    found
}

/// Stacks the layers with the kernel's own EROFS and overlayfs and reads the result.
fn mount_and_walk(folder: &Path, image: &Image) -> Option<Tree> {
    let mut stack = Stack { folder: folder.join("mounts"), mounted: Vec::new() };
    fs::create_dir(&stack.folder).unwrap();
    let mut names = Vec::new();
    for (index, layer) in image.file_system_layers().enumerate() {
        let name = index.to_string();
        fs::create_dir(stack.folder.join(&name)).unwrap();
        let mut mount = Command::new("mount");
        mount.current_dir(&stack.folder).args(["-t", "erofs", "-o", "ro"]).arg(&layer.path).arg(&name);
        if !mount.status().unwrap().success() {
            return None;
        }
        stack.mounted.push(name.clone());
        names.insert(0, name);
    }
    fs::create_dir(stack.folder.join("empty")).unwrap();
    fs::create_dir(stack.folder.join("merged")).unwrap();
    // Two lower layers are the least that overlayfs takes without an upper one.
    names.push("empty".to_owned());
    let lower = format!("lowerdir={}", names.join(":"));
    run(Command::new("mount")
        .current_dir(&stack.folder)
        .args(["-t", "overlay", "-o", &lower, "none", "merged"]));
    stack.mounted.push("merged".to_owned());
    Some(walk(&stack.folder.join("merged")))
}

struct Stack {
    folder: PathBuf,
    mounted: Vec<String>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        for name in self.mounted.iter().rev() {
            let _ = Command::new("umount").arg(self.folder.join(name)).status();
        }
    }
}

fn compare(layers: usize, big_sparse: bool) {
    if skipped() {
        return;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let folder = tempfile::tempdir().unwrap();
    let packings = [Packing::Gzip, Packing::Plain];
    let archive = awkward_image_packed(folder.path(), layers, big_sparse, &packings);
    let image = load(folder.path(), &archive);
    let composed = compose(&image.open_layers().unwrap()).unwrap();
    let unpacked = walk(&unpack(folder.path(), &archive));
    let found = differences(&composed, &unpacked, |name, ours, theirs| {
        let mut ours = ours.clone();
        // A name that an upper layer hides still counts in the layer that has it, as in overlayfs.
        if layers > 1 {
            ours.links = theirs.links;
        }
        // Folders that no layer describes have the time of unpacking there, and so has the root.
        if ours.mode & 0o170_000 == 0o040_000 && (theirs.mtime >= now || name.is_empty()) {
            (ours.mtime, ours.mtime_nanoseconds) = (theirs.mtime, theirs.mtime_nanoseconds);
        }
        // umoci counts nanoseconds in 64 bits, which end in the year 2262.
        if name == b"files/far-future" {
            (ours.mtime, ours.mtime_nanoseconds) = (theirs.mtime, theirs.mtime_nanoseconds);
        }
        ours == *theirs
    });
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found[..found.len().min(12)].concat());

    match mount_and_walk(folder.path(), &image) {
        Some(mounted) => {
            let found = differences(&composed, &mounted, |_, ours, theirs| ours == theirs);
            assert!(
                found.is_empty(),
                "{} differences\n{}",
                found.len(),
                found[..found.len().min(12)].concat()
            );
        }
        None => {
            missing("needs a kernel that mounts EROFS files");
        }
    }
}

#[test]
fn one_layer_is_what_umoci_unpacks() {
    compare(1, true);
}

#[test]
fn a_few_layers_are_what_umoci_unpacks() {
    compare(9, false);
}

#[test]
fn the_highest_stack_is_what_umoci_unpacks() {
    compare(127, false);
}
