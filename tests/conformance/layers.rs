//! What a container sees of its image is, entry by entry, what `umoci unpack` makes of it: mode, owner, times, links,
//! devices, content, extended attributes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capsid_image::testing::{Packing, awkward_image_with, entry};
use capsid_tests::host;

/// umoci sets the time of what no layer describes to the moment of unpacking.
const UNPACKED_JUST_NOW: Duration = Duration::from_secs(3600);
/// umoci counts nanoseconds in 64 bits, which end in the year 2262.
const TIMES_THAT_UMOCI_LOSES: &[&str] = &["/files/far-future"];

/// The fields of one line, by the path.
type Manifest = BTreeMap<String, Vec<String>>;

/// Numbers of the fields in a line, after the path.
const MTIME: usize = 3;
const LINKS: usize = 6;

fn parse(text: &str) -> Manifest {
    text.lines()
        .map(|line| {
            let mut fields = line.split('|').map(str::to_owned);
            (fields.next().unwrap(), fields.collect())
        })
        .collect()
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program that looks, static.
fn build_manifest(folder: &Path) -> PathBuf {
    let program = folder.join("manifest");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/guest/manifest.c");
    succeed(Command::new("gcc").args(["-static", "-O2", "-Wall", "-Werror", "-o"]).arg(&program).arg(source));
    program
}

fn unpack(folder: &Path, archive: &Path) -> PathBuf {
    let (from, layout) = (format!("oci-archive:{}", archive.display()), folder.join("layout"));
    let to = format!("oci:{}:awkward", layout.display());
    succeed(Command::new("skopeo").args(["copy", "-q", "--insecure-policy", &from, &to]));
    let bundle = folder.join("bundle");
    let image = format!("{}:awkward", layout.display());
    succeed(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    bundle.join("rootfs")
}

/// Forgets what cannot be compared, each for a reason that is not capsid's.
fn forget(manifest: &mut Manifest, theirs: &Manifest, layers: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let recent = now - UNPACKED_JUST_NOW.as_secs();
    for (path, fields) in manifest {
        let seconds =
            theirs.get(path).and_then(|fields| fields[MTIME].split('.').next()?.parse::<i64>().ok());
        let just_now = seconds.is_some_and(|seconds| seconds.cast_unsigned() >= recent && seconds > 0);
        if just_now || TIMES_THAT_UMOCI_LOSES.contains(&path.as_str()) {
            fields[MTIME].clear();
        }
        // A layer that replaces one of several names of a file leaves the lower layer's count as it was.
        if layers > 1 {
            fields[LINKS].clear();
        }
    }
}

fn compare(layers: usize, big_sparse: bool) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = build_manifest(folder.path());
    let tool =
        entry(b'0', "manifest").mode(0o755).mtime("1000000000").content(std::fs::read(&program).unwrap());
    let packings = [Packing::Gzip, Packing::Plain];
    let archive = awkward_image_with(folder.path(), layers, big_sparse, &packings, &[tool]);
    let state = folder.path().join("state");
    host().call().env("CAPSID_STATE_DIR", &state).args(["load", "-i"]).arg(&archive).finish().expect_code(0);
    let said = host()
        .run(&["--privileged"], &["awkward", "/manifest", "/"])
        .env("CAPSID_STATE_DIR", &state)
        .finish();
    let mut ours = parse(&said.expect_code(0).stdout_text());
    let theirs_raw = parse(&succeed(Command::new(&program).arg(unpack(folder.path(), &archive))));
    let mut theirs = theirs_raw.clone();
    forget(&mut ours, &theirs_raw, layers);
    forget(&mut theirs, &theirs_raw, layers);
    assert!(theirs.len() > 3000, "{} entries are too few to be the image", theirs.len());
    let paths: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differences: Vec<String> = paths
        .into_iter()
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{path}\n   guest {:?}\n   umoci {:?}", ours.get(path), theirs.get(path)))
        .collect();
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} entries differ:\n{shown}", differences.len());
}

#[test]
fn one_layer_with_a_gigabyte_of_holes_is_what_umoci_unpacks() {
    compare(1, true);
}

#[test]
fn a_hundred_and_twenty_seven_layers_are_what_umoci_unpacks() {
    compare(127, false);
}
