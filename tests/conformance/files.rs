//! A container's files, as `docker cp`, `docker diff` and `docker export` need them: of a container that runs, and of
//! one whose machine is only booted for it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use capsid_protocol::ChangeKind::{self, Added, Deleted, Modified};
use capsid_protocol::{ErrorCode, ExitStatus, ProcessId, ProcessSpec, TmpfsMount};
use capsid_runtime::agent::{Agent, WriteOptions};
use capsid_runtime::sandbox::Sandbox;
use capsid_runtime::spec::RunOptions;
use capsid_tar::testing::{TestEntry, TestWriter, entry};
use capsid_tar::{Entry, EntryKind, TarLimits, TarReader, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::machine::{prepared, running, shell, writable};

/// Runs a script in the container.
async fn run(agent: &Agent, of: &ProcessSpec, number: u32, script: &str) {
    agent.start_process(shell(of, number, script)).await.unwrap();
    let report = agent.wait(ProcessId(number)).await.unwrap();
    assert_eq!(report.status, ExitStatus::Code(0), "{script}");
}

async fn whole(mut archive: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The entries and their data, by name.
fn entries(archive: &[u8]) -> BTreeMap<String, (Entry, Vec<u8>)> {
    let mut reader = TarReader::new(archive, TarLimits::default());
    let mut entries = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        while let data @ [_, ..] = reader.fill_data().unwrap() {
            content.extend_from_slice(data);
            let count = data.len();
            reader.consume_data(count);
        }
        entries.insert(String::from_utf8(entry.path.clone()).unwrap(), (entry, content));
    }
    entries
}

async fn read(agent: &Agent, path: &str) -> BTreeMap<String, (Entry, Vec<u8>)> {
    entries(&whole(agent.read_tree(path).await.unwrap().1).await)
}

fn archive(entries: &[TestEntry]) -> Vec<u8> {
    let mut tar = TestWriter::new(Vec::new());
    entries.iter().for_each(|entry| tar.push(entry).unwrap());
    tar.finish().unwrap()
}

async fn write(agent: &Agent, path: &str, entries: &[TestEntry]) -> Result<(), (Option<ErrorCode>, String)> {
    let written = agent.write_tree(path, &WriteOptions::default(), archive(entries).as_slice()).await;
    written.map_err(|error| (error.code(), error.to_string()))
}

async fn changes(sandbox: &Sandbox) -> Vec<(ChangeKind, String)> {
    let changes = sandbox.agent().changes().await.unwrap();
    changes.into_iter().map(|change| (change.kind, change.path)).collect()
}

fn told(list: &[(ChangeKind, &str)]) -> Vec<(ChangeKind, String)> {
    list.iter().map(|(kind, path)| (*kind, (*path).to_owned())).collect()
}

fn tmpfs(path: &str, options: &str) -> TmpfsMount {
    TmpfsMount { path: path.to_owned(), options: options.to_owned() }
}

#[tokio::test]
async fn what_the_container_made_is_read_as_it_is() {
    let options = RunOptions { tmpfs: vec![tmpfs("/scratch", "")], ..Default::default() };
    let (sandbox, init) = running(&options, &writable()).await;
    let agent = sandbox.agent();
    let script = "mkdir -p /d/s; cd /d; echo hi >f; ln f h; ln -s ../../../etc up; mkfifo p; mknod c c 1 3; \
        chown 7:8 f; chmod 4755 f; touch -d '2001-09-09 01:46:40' s; echo there >/scratch/t; ln -s /d /ld";
    run(agent, &init, 1, script).await;
    let found = read(agent, "/d").await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["d/", "d/c", "d/f", "d/h", "d/p", "d/s/", "d/up"]);
    let (file, content) = &found["d/f"];
    assert_eq!((file.mode, file.uid, file.gid, content.as_slice()), (0o4755, 7, 8, &b"hi\n"[..]));
    assert_eq!(found["d/h"].0.kind, EntryKind::HardLink(b"d/f".to_vec()));
    assert_eq!(found["d/up"].0.kind, EntryKind::Symlink(b"../../../etc".to_vec()));
    assert_eq!(found["d/c"].0.kind, EntryKind::CharacterDevice { major: 1, minor: 3 });
    assert_eq!(found["d/s/"].0.mtime, Timestamp { seconds: 1_000_000_000, nanoseconds: 0 });
    assert_eq!(read(agent, "/ld/").await.keys().next().unwrap(), "ld/");
    // What is mounted for the container's use is seen, and none of the kernel's interfaces.
    assert_eq!(read(agent, "/scratch").await["scratch/t"].1, b"there\n");
    assert!(read(agent, "/etc/hosts").await["hosts"].1.starts_with(b"127.0.0.1\tlocalhost\n"));
    assert_eq!(read(agent, "/proc").await.len(), 1);
    assert_eq!(
        read(agent, "/dev").await.keys().collect::<Vec<_>>(),
        ["dev/", "dev/console", "dev/pts/", "dev/shm/"]
    );
    let stat = agent.stat_path("/d/up").await.unwrap();
    assert_eq!((stat.name.as_str(), stat.size, stat.link_target.as_str()), ("up", 12, "/etc"));
    assert_eq!(agent.stat_path("/none").await.unwrap_err().code(), Some(ErrorCode::NotFound));
    sandbox.stop().await;
}

#[tokio::test]
async fn what_is_written_is_there_for_the_container() {
    let (sandbox, init) = running(&RunOptions::default(), &writable()).await;
    let agent = sandbox.agent();
    let file = entry(b'0', "w/f").content("hello").mode(0o4711).owner(5, 6).mtime("1000000000.25");
    let entries = [
        entry(b'5', "w").mode(0o750).mtime("500000000"),
        file.xattr("user.note", b"kept"),
        entry(b'1', "w/h").link("w/f").mode(0o4711).owner(5, 6).mtime("1000000000.25"),
        entry(b'2', "w/l").link("/etc"),
        entry(b'0', "w/l/inside").content("x"),
        entry(b'3', "w/n").device(1, 3),
    ];
    write(agent, "/tmp", &entries).await.unwrap();
    let script = "set -e; test \"$(stat -c '%a %u %g %h %Y' /tmp/w/f)\" = '4711 5 6 2 1000000000'; \
        test \"$(stat -c '%a %Y' /tmp/w)\" = '750 500000000'; test \"$(cat /tmp/w/f)\" = hello; \
        test -c /tmp/w/n; test -f /etc/inside; test /tmp/w/h -ef /tmp/w/f";
    run(agent, &init, 1, script).await;
    let found = read(agent, "/tmp/w").await;
    assert_eq!(found["w/f"].0.mtime, Timestamp { seconds: 1_000_000_000, nanoseconds: 250_000_000 });
    assert_eq!(found["w/f"].0.xattrs[0].value, b"kept");
    for (path, entry, expected) in [
        ("/etc/passwd", entry(b'0', "a"), "extraction point is not a directory"),
        ("/none", entry(b'0', "a"), "there is no"),
        ("/tmp", entry(b'0', "../esc"), "is outside of \"/tmp\""),
        ("/etc", entry(b'0', "hosts"), "device or resource busy"),
    ] {
        let (_, message) = write(agent, path, &[entry]).await.unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    // Whatever is mounted there stays, also when its folder is to go.
    let removed = write(agent, "/", &[entry(b'0', "etc")]).await.unwrap_err();
    assert!(removed.1.contains("device or resource busy"), "{}", removed.1);
    run(agent, &init, 2, "grep -q localhost /etc/hosts && grep -q ' /etc/hosts ' /proc/mounts").await;
    sandbox.stop().await;
}

#[tokio::test]
async fn megabytes_go_both_ways_while_control_is_answered() {
    let (sandbox, init) = running(&RunOptions::default(), &writable()).await;
    let agent = sandbox.agent();
    let content: Vec<u8> = (0..24_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let big = archive(&[entry(b'0', "big").content(content.clone())]);
    let options = WriteOptions::default();
    let (written, ()) =
        tokio::join!(agent.write_tree("/tmp", &options, big.as_slice()), run(agent, &init, 1, "true"));
    written.unwrap();
    let (found, ()) = tokio::join!(read(agent, "/tmp/big"), run(agent, &init, 2, "true"));
    assert!(found["big"].1 == content, "{} bytes came back", found["big"].1.len());
    // Works that nobody waits for any more end, and leave room for others.
    for _ in 0..40 {
        drop(agent.read_tree("/tmp").await.unwrap());
        let cut = agent.write_tree("/tmp", &options, AsyncReadExt::chain(&big[..1000], Broken)).await;
        assert!(cut.is_err());
    }
    run(agent, &init, 3, "test -s /tmp/big").await;
    sandbox.stop().await;
}

/// An archive whose sender is gone.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }
}

#[tokio::test]
async fn changes_are_what_docker_diff_tells() {
    let options = RunOptions { tmpfs: vec![tmpfs("/scratch", "")], ..Default::default() };
    let (sandbox, init) = running(&options, &writable()).await;
    let agent = sandbox.agent();
    assert_eq!(changes(&sandbox).await, told(&[(Added, "/scratch")]));
    let script = "echo x >/scratch/f; mkdir -p /x/y; rm /etc/group; echo 1 >/etc/passwd; chmod 711 /root; \
        mkdir /new; touch /new/f; rm -rf /home; mkdir /home; touch /home/n; touch /etc; cat /bin/busybox >/dev/null";
    run(agent, &init, 1, script).await;
    let first = changes(&sandbox).await;
    let expected = [
        (Modified, "/etc"),
        (Deleted, "/etc/group"),
        (Modified, "/etc/passwd"),
        (Modified, "/home"),
        (Added, "/home/n"),
        (Added, "/new"),
        (Added, "/new/f"),
        (Modified, "/root"),
        (Added, "/scratch"),
        (Added, "/x"),
        (Added, "/x/y"),
    ];
    assert_eq!(first, told(&expected));
    sandbox.stop().await;
}

#[tokio::test]
async fn an_export_is_the_root_without_its_mounts() {
    let options = RunOptions { tmpfs: vec![tmpfs("/scratch", "")], ..Default::default() };
    let (sandbox, init) = running(&options, &writable()).await;
    run(sandbox.agent(), &init, 1, "echo x >/scratch/f; echo kept >/root/kept; rm /etc/group").await;
    let exported = whole(sandbox.agent().export().await.unwrap()).await;
    let found = entries(&exported);
    assert_eq!(found["root/kept"].1, b"kept\n");
    for name in [
        "dev/",
        "dev/pts/",
        "dev/shm/",
        "proc/",
        "sys/",
        "scratch/",
        "dev/console",
        ".dockerenv",
        "bin/busybox",
    ] {
        assert!(found.contains_key(name), "{name} is missing");
    }
    assert_eq!((found["etc/hosts"].1.len(), found["etc/hosts"].0.mode), (0, 0o755));
    assert_eq!(found["etc/mtab"].0.kind, EntryKind::Symlink(b"/proc/mounts".to_vec()));
    for name in ["scratch/f", "etc/group", "dev/null", "proc/self"] {
        assert!(!found.contains_key(name), "{name} is there");
    }
    let mut tar =
        Command::new("tar").args(["-tf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut names = tar.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        names.read_to_string(&mut text).map(|_| text.lines().count())
    });
    tar.stdin.take().unwrap().write_all(&exported).unwrap();
    assert!(tar.wait().unwrap().success());
    assert_eq!(reader.join().unwrap().unwrap(), found.len());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_stopped_containers_files_are_worked_on_without_its_process() {
    let layer = writable();
    let (sandbox, _) = prepared(&RunOptions::default(), &layer).await;
    assert_eq!(changes(&sandbox).await, []);
    write(sandbox.agent(), "/root", &[entry(b'0', "one").content("1")]).await.unwrap();
    sandbox.shut_down().await.unwrap();

    let (sandbox, _) = prepared(&RunOptions::default(), &layer).await;
    assert_eq!(changes(&sandbox).await, told(&[(Modified, "/root"), (Added, "/root/one")]));
    assert_eq!(read(sandbox.agent(), "/root/one").await["one"].1, b"1");
    write(sandbox.agent(), "/", &[entry(b'0', "two").content("2")]).await.unwrap();
    assert!(entries(&whole(sandbox.agent().export().await.unwrap()).await).contains_key("two"));
    sandbox.shut_down().await.unwrap();

    let (sandbox, init) = running(&RunOptions::default(), &layer).await;
    run(sandbox.agent(), &init, 1, "test \"$(cat /root/one /two)\" = 12 && rm /two").await;
    assert_eq!(changes(&sandbox).await, told(&[(Modified, "/root"), (Added, "/root/one")]));
    sandbox.shut_down().await.unwrap();
}

#[tokio::test]
async fn a_read_only_root_is_not_written_to_and_its_tmpfs_is() {
    let tmpfs = vec![tmpfs("/scratch", ""), tmpfs("/fixed", "ro")];
    let options = RunOptions { read_only: true, tmpfs, ..Default::default() };
    let (sandbox, _) = running(&options, &writable()).await;
    let agent = sandbox.agent();
    for (path, message) in
        [("/tmp", "container rootfs is marked read-only"), ("/fixed", "mounted volume is marked read-only")]
    {
        let refused = write(agent, path, &[entry(b'0', "f")]).await.unwrap_err();
        assert_eq!(refused, (Some(ErrorCode::InvalidArgument), message.to_owned()));
    }
    write(agent, "/scratch", &[entry(b'0', "f").content("x")]).await.unwrap();
    assert_eq!(read(agent, "/scratch/f").await["f"].1, b"x");
    sandbox.stop().await;
}

#[tokio::test]
async fn every_file_of_the_root_is_on_one_device_and_has_a_number_of_its_own() {
    let (sandbox, init) = running(&RunOptions::default(), &writable()).await;
    // The image's, the agent's layer of placeholders, and the writable layer.
    let script = "touch /root/new; test $(stat -c %d / /etc /etc/passwd /.dockerenv /etc/mtab /root/new | sort -u | wc -l) = 1; \
        test $(stat -c %i /etc/passwd /.dockerenv /root/new | sort -u | wc -l) = 3";
    run(sandbox.agent(), &init, 1, script).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_work_that_waits() {
    let (sandbox, _) = running(&RunOptions::default(), &writable()).await;
    let agent = sandbox.agent();
    // Nobody reads this one, and the other never gets its archive.
    let (_, unread) = agent.read_tree("/bin").await.unwrap();
    let (never, kept) = tokio::io::duplex(64);
    let options = WriteOptions::default();
    let mut waiting = Box::pin(agent.write_tree("/tmp", &options, never));
    assert!(timeout(Duration::from_secs(2), &mut waiting).await.is_err());
    // Well under the time after which it would not wait for any process.
    timeout(Duration::from_secs(8), agent.shutdown()).await.unwrap().unwrap();
    assert!(waiting.await.is_err());
    drop((unread, kept));
    sandbox.stop().await;
}
