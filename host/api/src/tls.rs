//! Certificates and keys in PEM files, for both sides of TLS.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A file that cannot be read, or holds something else.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {}", .path.display())]
pub struct PemFileError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: pem::Error,
}

/// The certificates of a file, at least one. Blocking.
///
/// # Errors
///
/// [`PemFileError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let failed = |source| PemFileError { path: path.to_owned(), source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = found.map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// The key of a file. Blocking.
///
/// # Errors
///
/// [`PemFileError`].
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemFileError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| PemFileError { path: path.to_owned(), source })
}
