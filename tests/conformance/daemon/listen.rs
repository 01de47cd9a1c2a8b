//! Where a daemon listens beside its own socket: where it was told, over TLS, and on what it was handed.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use capsid_api::client::{Client, Endpoint};
use capsid_tests::host;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

/// A daemon that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(folder: &Path) -> Command {
    let mut command = Command::new(host().daemon());
    command
        .args(["--engine", host().engine(), "--state-dir"])
        .arg(folder.join("state"))
        .env("CAPSID_RUNTIME_DIR", folder.join("run"))
        .env_remove("CAPSID_HOST")
        .stdin(Stdio::null());
    command
}

/// An authority, and what it signs.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, in PEM form.
    fn sign(&self, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// What the daemon answers to a ping of a client with that certificate; an error if it does not.
async fn ping_over_tls(
    address: &str,
    authority: &Authority,
    own: Option<&(String, String)>,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match own {
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    // A peer that closes without TLS's own farewell is told as an error, after everything was read.
    let ended = stream.read_to_string(&mut answer).await;
    if answer.is_empty() { ended.and(Err(std::io::ErrorKind::UnexpectedEof.into())) } else { Ok(answer) }
}

#[tokio::test]
async fn over_tcp_only_clients_of_the_authority_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.sign(ExtendedKeyUsagePurpose::ServerAuth);
    let files = [
        ("--tlscacert", write("ca.pem", &authority.certificate.pem())),
        ("--tlscert", write("cert.pem", &own.0)),
        ("--tlskey", write("key.pem", &own.1)),
    ];
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let without = daemon(folder.path()).args(["--host", &format!("tcp://{address}")]).output().unwrap();
    assert!(!without.status.success());
    assert!(String::from_utf8_lossy(&without.stderr).contains("--tlscacert"), "{without:?}");

    let mut command = daemon(folder.path());
    command.args(["--host", &format!("tcp://{address}")]).stderr(Stdio::null());
    for (flag, path) in &files {
        command.arg(flag).arg(path);
    }
    let _daemon = Ended(command.spawn().unwrap());
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).await.is_err() {
        assert!(Instant::now() < deadline, "the daemon does not listen");
        sleep(Duration::from_millis(20)).await;
    }
    let client = authority.sign(ExtendedKeyUsagePurpose::ClientAuth);
    let answer = ping_over_tls(&address, &authority, Some(&client)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("OK"), "{answer}");
    let others = stranger.sign(ExtendedKeyUsagePurpose::ClientAuth);
    for refused in [None, Some(&others), Some(&own)] {
        assert!(ping_over_tls(&address, &authority, refused).await.is_err());
    }
    // Our own client takes its files from a folder, as Docker's does.
    let home = capsid_tests::Home::new();
    for (name, text) in
        [("cert.pem", &client.0), ("key.pem", &client.1), ("ca.pem", &authority.certificate.pem())]
    {
        std::fs::write(home.folder().join(name), text).unwrap();
    }
    let ours = |host: &str| {
        let call = home.call(capsid_tests::host()).env("DOCKER_CERT_PATH", home.folder());
        call.args(["-H", &format!("tcp://{host}:{port}"), "version", "--format", "{{.Server.Version}}"])
            .finish()
    };
    ours("localhost").expect_code(0).expect_stdout("0.1.0\n");
    // The daemon's certificate is for its name.
    ours("127.0.0.1").expect_code(1);
    // Plain HTTP is no way in, and harms nobody.
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("an end");
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert!(ping_over_tls(&address, &authority, Some(&client)).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_was_handed_over_is_served_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handed.sock");
    let listener = StdListener::bind(&path).unwrap();
    // As sd_listen_fds(3) has it: descriptor 3, and the process that it is meant for.
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let inner = daemon(folder.path());
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.args(["--foreground", "--host", "fd://"]).stdin(std::os::fd::OwnedFd::from(listener));
    command.env("CAPSID_RUNTIME_DIR", folder.path().join("run")).stderr(Stdio::null());
    let mut daemon = Ended(command.spawn().unwrap());
    let client = Client::new(Endpoint::Unix(path.clone()));
    // Whoever connects before the daemon serves is served when it does.
    let answer = timeout(PATIENCE, client.get("/_ping").send()).await.expect("an answer in time");
    assert_eq!(status(answer), 200);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
    assert!(path.exists(), "the socket is another's");
}
