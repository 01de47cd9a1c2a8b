//! TLS for TCP: the daemon shows a certificate, and every client one of the authority that the daemon is told.

use std::path::Path;
use std::sync::Arc;

use capsid_api::tls::{self, PemFileError, certificates};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is of no use.
    #[error(transparent)]
    File(#[from] PemFileError),
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
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Own)?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(certificate)?, tls::key(key)?)
        .map_err(TlsError::Own)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
