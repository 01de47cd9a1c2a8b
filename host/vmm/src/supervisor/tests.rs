use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::run;
use crate::control::{EndCause, EndReport};
use crate::engine::{EngineError, RunningMachine};
use crate::observer::Observer;
use crate::parts::LauncherSide;

struct FakeMachine {
    ended: OwnedFd,
    calls: Rc<RefCell<Vec<&'static str>>>,
}

impl RunningMachine for FakeMachine {
    fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
    fn end_cause(&mut self) -> EndCause {
        EndCause::GuestReset
    }
    fn pause(&mut self) -> Result<(), EngineError> {
        self.calls.borrow_mut().push("pause");
        Ok(())
    }
    fn resume(&mut self) -> Result<(), EngineError> {
        Err("no".into())
    }
    fn stop(&mut self) {
        self.calls.borrow_mut().push("stop");
    }
}

struct Launcher {
    socket: std::path::PathBuf,
    lifeline: Option<UnixStream>,
    report: std::io::PipeReader,
    ended: OwnedFd,
    supervisor: thread::JoinHandle<(ExitCode, Vec<&'static str>)>,
    _folder: tempfile::TempDir,
}

impl Launcher {
    fn start() -> Launcher {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let control = UnixListener::bind(&socket).unwrap();
        let (lifeline, other) = UnixStream::pair().unwrap();
        let (report, writer) = std::io::pipe().unwrap();
        let ended = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let guest = ended.try_clone().unwrap();
        let supervisor = thread::spawn(move || {
            let calls = Rc::new(RefCell::new(Vec::new()));
            let launcher = LauncherSide {
                control,
                lifeline: Some(other.into()),
                report: File::from(OwnedFd::from(writer)),
            };
            let observer = Observer::new(1 << 20);
            observer.append_console(&vec![b'x'; 1 << 20]);
            let machine = FakeMachine { ended: guest, calls: Rc::clone(&calls) };
            let code = run(launcher, &observer, |_| Ok(machine));
            let calls = calls.borrow().clone();
            (code, calls)
        });
        Launcher { socket, lifeline: Some(lifeline), report, ended, supervisor, _folder: folder }
    }

    fn client(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        BufReader::new(stream)
    }

    fn end(mut self) -> (EndReport, Vec<&'static str>) {
        let mut text = String::new();
        self.report.read_to_string(&mut text).unwrap();
        let (_, calls) = self.supervisor.join().unwrap();
        (serde_json::from_str(&text).unwrap(), calls)
    }
}

fn ask(client: &mut BufReader<UnixStream>, request: &str) -> String {
    client.get_mut().write_all(request.as_bytes()).unwrap();
    client.get_mut().write_all(b"\n").unwrap();
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

#[test]
fn requests_are_answered_and_stop_ends() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    assert!(ask(&mut client, r#"{"request":"state"}"#).contains(r#""state":"running""#));
    assert_eq!(ask(&mut client, r#"{"request":"pause"}"#), "{\"reply\":\"done\"}\n");
    let mut other = launcher.client();
    assert!(ask(&mut other, r#"{"request":"state"}"#).contains(r#""state":"paused""#));
    assert!(ask(&mut other, r#"{"request":"resume"}"#).contains(r#""message":"no""#));
    assert!(ask(&mut other, "nonsense").contains("not a request"));
    assert_eq!(ask(&mut client, r#"{"request":"stop"}"#), "{\"reply\":\"done\"}\n");
    let (report, calls) = launcher.end();
    assert_eq!(report.cause, EndCause::Stopped);
    assert_eq!(calls, ["pause", "stop"]);
}

#[test]
fn a_machine_that_ends_by_itself_is_reported() {
    let launcher = Launcher::start();
    rustix::io::write(&launcher.ended, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(launcher.end().0.cause, EndCause::GuestReset);
}

#[test]
fn a_closed_lifeline_ends_the_machine() {
    let mut launcher = Launcher::start();
    launcher.lifeline.as_mut().unwrap().write_all(b"words mean nothing").unwrap();
    drop(launcher.lifeline.take());
    assert_eq!(launcher.end().0.cause, EndCause::LauncherGone);
}

#[test]
fn hostile_clients_do_not_keep_others_waiting() {
    let launcher = Launcher::start();
    // Asks for megabytes and reads none.
    let mut greedy = launcher.client();
    for _ in 0..20 {
        greedy.get_mut().write_all(b"{\"request\":\"console\"}\n").unwrap();
    }
    // Never ends its line.
    let mut endless = launcher.client();
    let long = vec![b'a'; 3000];
    let flood = thread::spawn(move || while endless.get_mut().write_all(&long).is_ok() {});
    // Take every place.
    let idle: Vec<_> = (0..40).map(|_| launcher.client()).collect();
    let mut client = launcher.client();
    assert!(ask(&mut client, r#"{"request":"state"}"#).contains("running"));
    flood.join().unwrap();
    assert!(ask(&mut client, r#"{"request":"stop"}"#).contains("done"));
    drop(idle);
    assert_eq!(launcher.end().0.cause, EndCause::Stopped);
}

#[test]
fn a_machine_that_cannot_be_built_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let control = UnixListener::bind(folder.path().join("control")).unwrap();
    let (mut report, writer) = std::io::pipe().unwrap();
    let launcher = LauncherSide { control, lifeline: None, report: File::from(OwnedFd::from(writer)) };
    run::<FakeMachine>(launcher, &Observer::new(0), |_| Err("no kernel".into()));
    let mut text = String::new();
    report.read_to_string(&mut text).unwrap();
    let report: EndReport = serde_json::from_str(&text).unwrap();
    assert_eq!(report.cause, EndCause::Failed { message: "no kernel".to_owned() });
}
