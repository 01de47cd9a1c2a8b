//! The daemon's API, as any client may speak to it: requests that are nearly right, and bytes that are no requests.
//!
//! Whatever comes, the daemon lives, answers each request that it can read in HTTP, and the next client is served. There
//! is no machine behind it, so starts fail; everything that is decided on the host is decided for real.
#![no_main]

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use capsid_daemon::testing::Detached;
use capsid_image::testing::{ArchiveWriter, Packing, TarWriter};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

/// After so many inputs, the containers that they made are removed.
const CLEAR_EVERY: u32 = 200;
/// How long an answer without an end is listened to.
const PATIENCE: Duration = Duration::from_millis(30);

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"];
/// Paths, with `@` for what the input names.
const PATHS: [&str; 44] = [
    "/_ping",
    "/version",
    "/info",
    "/events",
    "/metrics",
    "/system/df",
    "/images/json",
    "/images/load",
    "/images/get",
    "/images/prune",
    "/images/@/json",
    "/images/@/history",
    "/images/@/tag",
    "/images/@/get",
    "/images/@",
    "/images/create",
    "/containers/json",
    "/containers/create",
    "/containers/prune",
    "/containers/@",
    "/containers/@/json",
    "/containers/@/start",
    "/containers/@/stop",
    "/containers/@/restart",
    "/containers/@/kill",
    "/containers/@/pause",
    "/containers/@/unpause",
    "/containers/@/rename",
    "/containers/@/update",
    "/containers/@/wait",
    "/containers/@/resize",
    "/containers/@/attach",
    "/containers/@/attach/ws",
    "/containers/@/logs",
    "/containers/@/top",
    "/containers/@/stats",
    "/containers/@/archive",
    "/containers/@/changes",
    "/containers/@/export",
    "/containers/@/exec",
    "/exec/@/start",
    "/exec/@/resize",
    "/exec/@/json",
    "/networks/@",
];

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Raw(&'a [u8]),
    Requests(Vec<Request<'a>>),
}

#[derive(Debug, Arbitrary)]
struct Request<'a> {
    method: u8,
    path: u8,
    name: &'a str,
    version: Option<(u8, u8)>,
    query: Vec<(&'a str, &'a str)>,
    upgrade: bool,
    body: Body<'a>,
}

#[derive(Debug, Arbitrary)]
enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// A container with these settings, some of which make sense.
    Container {
        command: &'a str,
        number: i64,
        text: &'a str,
    },
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02x}")
                }
            },
        )
        .collect()
}

impl Request<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let method = METHODS[usize::from(self.method) % METHODS.len()];
        // The one container's name, so that more than a refusal is reached.
        let name = if self.name.len() < 2 { "one" } else { self.name };
        let path = PATHS[usize::from(self.path) % PATHS.len()].replace('@', &encode(name));
        let version = self.version.map_or_else(String::new, |(major, minor)| format!("/v{major}.{minor}"));
        let query: Vec<_> =
            self.query.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        let body = match &self.body {
            Body::None => Vec::new(),
            Body::Bytes(bytes) => bytes.to_vec(),
            Body::Container { command, number, text } => format!(
                r#"{{"Image":"i","Cmd":[{command:?}],"Tty":true,"HostConfig":{{"Memory":{number},"NanoCpus":{number},
                    "PidsLimit":{number},"NetworkMode":{text:?},"LogConfig":{{"Type":{text:?}}},"ShmSize":{number}}}}}"#
            )
            .into_bytes(),
        };
        let upgrade = if self.upgrade { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
        let head = format!(
            "{method} {version}{path}?{} HTTP/1.1\r\nHost: fuzz\r\n{upgrade}Content-Length: {}\r\n\r\n",
            query.join("&"),
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&body);
    }
}

fn runtime() -> &'static (Runtime, Detached, tempfile::TempDir) {
    static RUNTIME: OnceLock<(Runtime, Detached, tempfile::TempDir)> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let server = runtime.block_on(Detached::open(folder.path().join("state"))).expect("a server");
        let load =
            runtime.block_on(server.converse(&load_of_an_image(folder.path()), Duration::from_secs(10)));
        assert!(
            String::from_utf8_lossy(&load).contains("Loaded image: i"),
            "{}",
            String::from_utf8_lossy(&load)
        );
        (runtime, server, folder)
    })
}

/// A request that loads the image `i`.
fn load_of_an_image(folder: &std::path::Path) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    tar.file("f", b"content").expect("room in memory");
    let mut archive = ArchiveWriter::create(&folder.join("i.tar")).expect("an archive");
    archive.layer(&tar.finish().expect("a layer"), Packing::Plain).expect("a layer in it");
    let bytes = std::fs::read(archive.finish("i").expect("an archive")).expect("its bytes");
    let mut request =
        format!("POST /images/load HTTP/1.1\r\nHost: fuzz\r\nContent-Length: {}\r\n\r\n", bytes.len())
            .into_bytes();
    request.extend_from_slice(&bytes);
    request
}

thread_local! {
    static INPUTS: Cell<u32> = const { Cell::new(0) };
}

fuzz_target!(|input: Input<'_>| {
    let (runtime, server, _) = runtime();
    let mut sent = Vec::new();
    match input {
        Input::Raw(bytes) => sent.extend_from_slice(bytes),
        Input::Requests(requests) => requests.iter().take(8).for_each(|request| request.write(&mut sent)),
    }
    runtime.block_on(async {
        let answer = server.converse(&sent, PATIENCE).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "not HTTP: {answer:?}");
        let ping = server.converse(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", Duration::from_secs(5)).await;
        assert!(ping.starts_with(b"HTTP/1.1 200"), "the next client is not served");
        INPUTS.set(INPUTS.get() + 1);
        if INPUTS.get() % CLEAR_EVERY == 0 {
            server.clear().await;
        }
    });
});
