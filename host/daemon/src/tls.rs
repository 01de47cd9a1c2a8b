//! TLS for TCP: the daemon shows a certificate, and every client one of the authority that the daemon is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("failed to read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: pem::Error,
    },
    /// The authority's certificate is of no use.
    #[error("failed to use the authority's certificate")]
    Authority(#[source] VerifierBuilderError),
    /// Certificate and key are of no use, or do not belong together.
    #[error("failed to use the daemon's certificate and key")]
    Own(#[source] rustls::Error),
}

/// The daemon's side, which refuses clients without a certificate that `authority` has signed. Files are in PEM form.
///
/// # Errors
///
/// What is wrong with the files.
pub fn server(authority: &Path, certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate).map_err(TlsError::Own)?;
    }
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(TlsError::Authority)?;
    let own_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsError::File { path: key.to_owned(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Own)?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(certificate)?, own_key)
        .map_err(TlsError::Own)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = found.map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}
