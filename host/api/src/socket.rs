//! Where the daemon keeps its state and listens when nobody says where: one answer for the daemon and its clients.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use sha2::{Digest, Sha256};

/// Bytes of the hash that tells the sockets of several state folders apart.
const HASH_BYTES: usize = 8;
/// Of a folder for sockets that is made here: its owner's alone.
const FOLDER_MODE: u32 = 0o700;
/// Bits of a mode that let others make files in a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a socket's folder cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Neither the environment nor the user's identity says where state is kept.
    #[error("neither --state-dir, XDG_DATA_HOME nor HOME says where to keep images and containers")]
    NoStateFolder,
    /// The folder cannot be made or looked at.
    #[error("failed to prepare the socket's folder {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could listen there in the daemon's place.
    #[error("the socket's folder {} is another user's, or others can write to it", .path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
}

/// The folder of images and containers when none is named: root's is the system's, others have their own.
///
/// # Errors
///
/// [`SocketError::NoStateFolder`].
pub fn default_state_folder() -> Result<PathBuf, SocketError> {
    if geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/capsid"));
    }
    let data = folder_in("XDG_DATA_HOME").or_else(|| folder_in("HOME").map(|home| home.join(".local/share")));
    data.map(|folder| folder.join("capsid")).ok_or(SocketError::NoStateFolder)
}

/// The socket of the daemon that keeps `state_folder`; of the user's own daemon when none is named.
///
/// The folder need not exist. Whichever way it is spelled, the socket is the same.
#[must_use]
pub fn default_socket(state_folder: Option<&Path>) -> PathBuf {
    let own = default_state_folder().ok().map(|folder| spelled_out(&folder));
    let named = state_folder.map(spelled_out).filter(|folder| own.as_ref() != Some(folder));
    let name = named.map_or_else(
        || "capsid.sock".to_owned(),
        |folder| {
            let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
            let digits: String = hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
            format!("capsid-{digits}.sock")
        },
    );
    runtime_folder().join(name)
}

/// Makes the folder of `socket` if it is missing, and refuses one in which others could listen instead. Both sides
/// call it: the daemon before it binds, a client before it connects to what [`default_socket`] gave.
///
/// # Errors
///
/// [`SocketError`].
pub fn secure_folder(socket: &Path) -> Result<(), SocketError> {
    let path = socket.parent().unwrap_or(Path::new("/"));
    let failed = |source| SocketError::Folder { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    let ours = metadata.uid() == geteuid().as_raw() || metadata.uid() == 0;
    if metadata.is_dir() && ours && metadata.mode() & WRITABLE_BY_OTHERS == 0 {
        Ok(())
    } else {
        Err(SocketError::Foreign { path: path.to_owned() })
    }
}

/// The folder of sockets: the session's, root's, or one of the user's own in /tmp.
fn runtime_folder() -> PathBuf {
    folder_in("XDG_RUNTIME_DIR").unwrap_or_else(|| {
        let user = geteuid();
        if user.is_root() {
            PathBuf::from("/run")
        } else {
            PathBuf::from(format!("/tmp/capsid-{}", user.as_raw()))
        }
    })
}

/// A folder that a variable names; relative ones are ignored (XDG Base Directory Specification).
fn folder_in(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The path without links and dots, as far as it exists.
fn spelled_out(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), absolute.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_has_one_socket_however_it_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let before = default_socket(Some(&state));
        fs::create_dir(&state).unwrap();
        symlink(&state, folder.path().join("link")).unwrap();
        let spellings =
            [state.clone(), state.join("."), folder.path().join("link"), folder.path().join("./state/")];
        for spelling in spellings {
            assert_eq!(default_socket(Some(&spelling)), before, "{}", spelling.display());
        }
        assert_ne!(default_socket(Some(folder.path())), before);
        assert_ne!(default_socket(None), before);
    }

    #[test]
    fn the_default_folder_by_name_is_the_default() {
        let Ok(folder) = default_state_folder() else { return };
        assert_eq!(default_socket(Some(&folder)), default_socket(None));
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = folder.path().join("sockets");
        let socket = sockets.join("capsid.sock");
        secure_folder(&socket).unwrap();
        assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
        secure_folder(&socket).unwrap();
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(secure_folder(&socket), Err(SocketError::Foreign { .. })));
    }
}
