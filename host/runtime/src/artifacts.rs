//! Finds what a machine boots from: the guest's kernel, its initial file system, and the template of the writable
//! layer.

use std::env;
use std::path::{Path, PathBuf};

/// Names the folder of the guest's artifacts, before every other place.
pub const GUEST_DIR_VARIABLE: &str = "CAPSID_GUEST_DIR";

/// The files that every machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    /// The guest's kernel, an ELF file.
    pub kernel: PathBuf,
    /// The initial file system with the agent.
    pub initramfs: PathBuf,
    /// An empty ext4 file system in a sparse file, cloned for every container.
    pub writable_template: PathBuf,
    /// The monitor's program.
    pub monitor: PathBuf,
}

/// Why the artifacts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// One is missing in every place where it is looked for.
    #[error("{name} is in none of {}: run 'make build', or name its folder in {GUEST_DIR_VARIABLE}", list(.searched))]
    Missing {
        /// The file's name.
        name: &'static str,
        /// The folders that were searched.
        searched: Vec<PathBuf>,
    },
    /// The program's own path is unknown.
    #[error("failed to find this program's own path")]
    OwnPath(#[source] std::io::Error),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Artifacts {
    /// Looks in the folder that [`GUEST_DIR_VARIABLE`] names, or else in those beside this program: `guest`,
    /// `../guest` (a build tree) and `../lib/capsid` (an installation).
    ///
    /// # Errors
    ///
    /// The first file that is in none of them.
    pub fn locate() -> Result<Artifacts, ArtifactError> {
        let program = env::current_exe().map_err(ArtifactError::OwnPath)?;
        let beside = program.parent().unwrap_or(Path::new("/"));
        let folders = match env::var_os(GUEST_DIR_VARIABLE) {
            Some(folder) => vec![PathBuf::from(folder)],
            None => vec![beside.join("guest"), beside.join("../guest"), beside.join("../lib/capsid")],
        };
        Ok(Artifacts {
            kernel: find("vmlinux", &folders)?,
            initramfs: find("initramfs.cpio", &folders)?,
            writable_template: find("writable.ext4", &folders)?,
            monitor: find(
                "capsid-vmm",
                &[beside.to_path_buf(), beside.join("../lib/capsid"), beside.join("..")],
            )?,
        })
    }
}

fn find(name: &'static str, folders: &[PathBuf]) -> Result<PathBuf, ArtifactError> {
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| ArtifactError::Missing { name, searched: folders.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_artifact_is_named_with_every_folder_that_was_searched() {
        let folders = [PathBuf::from("/nowhere/a"), PathBuf::from("/nowhere/b")];
        let message = find("vmlinux", &folders).unwrap_err().to_string();
        assert!(
            message.starts_with("vmlinux is in none of /nowhere/a, /nowhere/b: run 'make build'"),
            "{message}"
        );
    }
}
