//! TLS to a daemon over TCP: it shows a certificate of the authority's, and so does this side.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::tls::{PemFileError, certificates, key};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is of no use.
    #[error(transparent)]
    File(#[from] PemFileError),
    /// What is in the files is of no use.
    #[error("failed to use the certificates")]
    Unusable(#[from] rustls::Error),
}

/// Where a client's certificates are, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signs daemons.
    pub authority: PathBuf,
    /// The client's own certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files of a folder, under the names that Docker's client gives them.
    #[must_use]
    pub fn in_folder(folder: &Path) -> TlsFiles {
        let file = |name| folder.join(name);
        TlsFiles { authority: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") }
    }

    /// Reads them. Blocking.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn read(&self) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&self.certificate)?, key(&self.key)?)?;
        Ok(Tls(Arc::new(config)))
    }
}

/// A client's side of TLS.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    pub(super) async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }
}
