//! Against a guest that is made up, and says what it likes.

use capsid_protocol::{
    ChangeKind, ControlAccepted, Refusal, RequestId, SPOKEN, encode_frame, read_frame, write_frame,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream as BlockingUnixStream};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::*;

type Line = BufReader<BlockingUnixStream>;

/// An agent behind a monitor's socket, which makes one connection for control and does `work` with the next.
async fn with_guest(work: impl FnOnce(FilesWork, &mut Line) + Send + 'static) -> (Agent, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vsock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let (_, mut control) = accept(&listener);
        say(&mut control, &OpeningReply::Control(ControlAccepted { version: SPOKEN.newest }));
        let (opening, mut line) = accept(&listener);
        let Opening::Files(asked) = opening else { panic!("not work on files: {opening:?}") };
        work(asked, &mut line);
        // Until the host has had enough.
        let _ = control.read(&mut [0]);
    });
    (Agent::connect(&socket).await.unwrap(), folder)
}

fn accept(listener: &UnixListener) -> (Opening, Line) {
    let mut line = BufReader::new(listener.accept().unwrap().0);
    let mut connect = String::new();
    line.read_line(&mut connect).unwrap();
    assert!(connect.starts_with("CONNECT "));
    line.get_mut().write_all(b"OK 5\n").unwrap();
    let (_, opening) = read_frame(&mut line).unwrap();
    (opening, line)
}

fn say(line: &mut Line, message: &impl serde::Serialize) {
    write_frame(line.get_mut(), RequestId(0), message).unwrap();
}

fn stat() -> PathStat {
    let (name, link_target) = ("etc".to_owned(), String::new());
    PathStat { name, size: 1, mode: 0o040_755, mtime_seconds: 0, mtime_nanoseconds: 0, link_target }
}

fn refusal() -> Refusal {
    Refusal { code: ErrorCode::InvalidArgument, message: "no".to_owned() }
}

/// What reading an archive comes to of which the guest sends these bytes, piece by piece.
async fn read(pieces: Vec<Vec<u8>>) -> Result<Vec<u8>, io::Error> {
    let (agent, _folder) = with_guest(move |work, line| {
        assert_eq!(work, FilesWork::ReadTree { path: "/etc".into() });
        say(line, &OpeningReply::Path(stat()));
        for piece in pieces {
            let _ = line.get_mut().write_all(&piece);
            std::thread::yield_now();
        }
        let _ = line.get_mut().shutdown(std::net::Shutdown::Write);
    })
    .await;
    let (said, mut archive) = agent.read_tree("/etc").await.unwrap();
    assert_eq!(said, stat());
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).await.map(|_| bytes)
}

fn piece(bytes: &[u8]) -> Vec<u8> {
    [encode_piece_header(bytes.len()).as_slice(), bytes].concat()
}

fn end(response: &Response) -> Vec<u8> {
    [piece(b""), encode_frame(RequestId(0), response).unwrap()].concat()
}

#[tokio::test]
async fn an_archive_ends_only_where_the_guest_says_that_it_is_whole() {
    let wire = [piece(b"some"), piece(&[7; 100_000]), end(&Response::Done)].concat();
    let expected = [b"some".as_slice(), &[7; 100_000]].concat();
    assert_eq!(read(vec![wire.clone()]).await.unwrap(), expected);
    let bytewise = wire[..10].iter().map(|byte| vec![*byte]).chain([wire[10..].to_vec()]).collect();
    assert_eq!(read(bytewise).await.unwrap(), expected);
    for cut in [0, 2, 6, 8, 50_000, wire.len() - 20, wire.len() - 1] {
        assert!(read(vec![wire[..cut].to_vec()]).await.is_err(), "cut at {cut}");
    }
}

#[tokio::test]
async fn what_the_guest_says_at_the_end_is_the_error() {
    let failed = read(vec![[piece(b"some"), end(&Response::Failed(refusal()))].concat()]).await.unwrap_err();
    let failed = failed.get_ref().and_then(|error| error.downcast_ref::<FilesError>()).unwrap();
    assert_eq!(failed.code(), Some(ErrorCode::InvalidArgument));
    for nonsense in [
        end(&Response::Changes(Vec::new())),
        [0xff; 100].to_vec(),
        [piece(b""), vec![0xff; 100]].concat(),
        [piece(b""), vec![0; 12], b"junk".to_vec()].concat(),
    ] {
        assert!(read(vec![nonsense]).await.is_err());
    }
}

#[tokio::test]
async fn what_is_not_there_has_its_code() {
    let (agent, _folder) = with_guest(|_, line| {
        say(line, &OpeningReply::Refused(Refusal { code: ErrorCode::NotFound, message: "gone".into() }));
    })
    .await;
    assert_eq!(agent.stat_path("/x").await.unwrap_err().code(), Some(ErrorCode::NotFound));
    let (agent, _folder) = with_guest(|_, line| {
        say(line, &OpeningReply::Path(PathStat { name: "n".repeat(100_000), ..stat() }));
    })
    .await;
    assert!(matches!(agent.stat_path("/x").await, Err(FilesError::Agent(AgentError::WrongAnswer { .. }))));
}

#[tokio::test]
async fn an_archive_is_sent_with_its_end_and_answered() {
    let (agent, _folder) = with_guest(|work, line| {
        let owner = Some("web".to_owned());
        assert_eq!(work, FilesWork::WriteTree { path: "/t".into(), no_overwrite_dir_non_dir: true, owner });
        say(line, &OpeningReply::Files);
        let mut bytes = Vec::new();
        capsid_protocol::BodyReader::new(&mut *line).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, vec![3; 300_000]);
        say(line, &Response::Done);
    })
    .await;
    let options = WriteOptions { no_overwrite_dir_non_dir: true, owner: Some("web".into()) };
    let archive = vec![3; 300_000];
    let written = agent.write_tree("/t", &options, archive.as_slice());
    // A server's tasks move between threads.
    let written: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(written);
    written.await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_heard_while_the_archive_is_still_coming() {
    for closes in [false, true] {
        let (agent, _folder) = with_guest(move |_, line| {
            say(line, &OpeningReply::Files);
            say(line, &Response::Failed(refusal()));
            if closes {
                let _ = line.get_mut().shutdown(std::net::Shutdown::Both);
            }
        })
        .await;
        let endless = tokio::io::repeat(0);
        let refused = agent.write_tree("/t", &WriteOptions::default(), endless).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::InvalidArgument), "{refused:?}");
    }
}

#[tokio::test]
async fn an_archive_that_cannot_be_read_is_not_ended() {
    let (sender, cut) = std::sync::mpsc::channel();
    let (agent, _folder) = with_guest(move |_, line| {
        say(line, &OpeningReply::Files);
        let read = capsid_protocol::BodyReader::new(&mut *line).read_to_end(&mut Vec::new());
        sender.send(read.is_err()).unwrap();
    })
    .await;
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }
    let failed = agent
        .write_tree("/t", &WriteOptions::default(), AsyncReadExt::chain(b"some".as_slice(), Broken))
        .await;
    assert!(matches!(failed, Err(FilesError::Archive(_))), "{failed:?}");
    assert!(cut.recv().unwrap(), "the guest took it for whole");
}

#[tokio::test]
async fn changes_come_in_parts_and_end() {
    let change = |path: &str| FileChange { path: path.into(), kind: ChangeKind::Added };
    let (agent, _folder) = with_guest(move |work, line| {
        assert_eq!(work, FilesWork::Changes);
        say(line, &OpeningReply::Files);
        say(line, &Response::Changes(vec![change("/a"), change("/b")]));
        say(line, &Response::Changes(vec![change("/c")]));
        say(line, &Response::Done);
    })
    .await;
    let paths: Vec<String> = agent.changes().await.unwrap().into_iter().map(|change| change.path).collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    let (agent, _folder) = with_guest(|_, line| {
        say(line, &OpeningReply::Files);
        say(line, &Response::Changes(Vec::new()));
        line.get_mut().shutdown(std::net::Shutdown::Both).unwrap();
    })
    .await;
    assert!(matches!(agent.changes().await, Err(FilesError::Agent(AgentError::Ended))));
}

#[test]
fn modes_are_those_of_go() {
    // As a daemon of Docker's told them.
    for (st_mode, go) in [
        (0o100_644, 420),
        (0o040_755, 2_147_484_141),
        (0o120_777, 134_218_239),
        (0o010_644, 33_554_852),
        (0o020_666, 69_206_454),
        (0o060_660, 67_109_296),
        (0o041_777, 2_148_532_735),
        (0o106_755, 12_583_405),
    ] {
        assert_eq!(go_file_mode(st_mode), go, "{st_mode:o}");
    }
}
