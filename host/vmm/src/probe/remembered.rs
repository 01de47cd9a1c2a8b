//! What was found earlier in this boot, in a small file.
//!
//! It is valid for the circumstances that it was found in and for no others. Whatever is wrong with the file, it is as
//! if it were not there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Probe;

const FILE_NAME: &str = "kvm-probe.json";
/// A file that is longer is none of ours.
const MAX_FILE_BYTES: u64 = 4096;
/// Counted up when what is measured, or its limit, changes.
const FORMAT: u32 = 1;

/// What a finding depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Circumstances {
    format: u32,
    /// Random for each start of the host's kernel.
    boot_id: String,
    /// Of the device: file system, number in it, and driver. A driver that is loaded anew gets a new number.
    device: (u64, u64, u64),
    user: u32,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    circumstances: Circumstances,
    probe: Probe,
}

impl Circumstances {
    /// Those of now. None if they cannot be found out.
    pub(super) fn of(device: &File) -> Option<Circumstances> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let metadata = device.metadata().ok()?;
        let device = (metadata.dev(), metadata.ino(), metadata.rdev());
        Some(Circumstances { format: FORMAT, boot_id, device, user: rustix::process::geteuid().as_raw() })
    }
}

/// What was found in these circumstances.
pub(super) fn recall(folder: &Path, circumstances: &Circumstances) -> Option<Probe> {
    let mut text = String::new();
    File::open(folder.join(FILE_NAME)).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    let entry: Entry = serde_json::from_str(&text).ok()?;
    (entry.circumstances == *circumstances).then_some(entry.probe)
}

/// Remembers a finding, replacing the file as a whole. If that fails, the next one finds out again.
pub(super) fn store(folder: &Path, circumstances: Circumstances, probe: &Probe) {
    let entry = Entry { circumstances, probe: probe.clone() };
    let _ = try_store(folder, &entry);
}

fn try_store(folder: &Path, entry: &Entry) -> io::Result<()> {
    // Of this process alone, so that two at once do not write into one file.
    let temporary = folder.join(format!(".{FILE_NAME}.{}", std::process::id()));
    let written = serde_json::to_vec(entry)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, folder.join(FILE_NAME)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> Circumstances {
        Circumstances::of(&File::open("/dev/null").expect("opened")).expect("known")
    }

    #[test]
    fn a_finding_is_recalled_in_its_circumstances_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let probe = Probe::Usable { took: Duration::from_micros(123) };
        store(folder.path(), now(), &probe);
        assert_eq!(recall(folder.path(), &now()), Some(probe));
        assert_eq!(recall(folder.path(), &Circumstances { boot_id: "another".into(), ..now() }), None);
        assert_eq!(recall(folder.path(), &Circumstances { device: (1, 2, 3), ..now() }), None);
        assert_eq!(recall(folder.path(), &Circumstances { format: 0, ..now() }), None);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_corrupt_file_is_as_good_as_none_and_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE_NAME);
        for corrupt in [b"".as_slice(), b"{", b"null", b"{\"probe\":{}}", &[0xff; 100], &[b' '; 10_000]] {
            fs::write(&file, corrupt).expect("written");
            assert_eq!(recall(folder.path(), &now()), None);
        }
        store(folder.path(), now(), &Probe::Usable { took: Duration::ZERO });
        assert!(recall(folder.path(), &now()).is_some());
    }

    #[test]
    fn a_folder_that_is_not_there_is_done_without() {
        let nowhere = Path::new("/nonexistent/capsid");
        store(nowhere, now(), &Probe::Usable { took: Duration::ZERO });
        assert_eq!(recall(nowhere, &now()), None);
    }
}
