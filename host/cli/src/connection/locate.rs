//! Where the daemon's program is.

use std::env;
use std::path::{Path, PathBuf};

/// The daemon's program.
const PROGRAM: &str = "capsidd";

/// The daemon's program: beside this one, or in `PATH`.
pub(crate) fn daemon_program() -> Option<PathBuf> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join(PROGRAM));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path =
        env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(PROGRAM));
    beside.into_iter().chain(in_path).find(|program| program.is_file())
}
