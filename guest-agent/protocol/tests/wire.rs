//! The wire form of every message, against the checked-in `wire.txt`.
//!
//! A difference is a change of the protocol: host and agent of different builds meet when a daemon is updated while
//! machines run. If the change is meant (and appends only), `CAPSID_UPDATE_WIRE=1 cargo test -p capsid-protocol`
//! writes the file anew; read the difference before it is committed.

use std::fmt::Write as _;
use std::path::Path;

use capsid_protocol::{
    BlockStatistics, Capability, ChangeKind, ControlAccepted, CpuStatistics, ErrorCode, ExitReport,
    ExitStatus, FileChange, FilesWork, Identity, InterfaceAddress, InterfaceStatistics, Limit, LimitChanges,
    Limits, MemoryStatistics, Milestone, NetworkSetup, Opening, OpeningReply, OutputAccepted, PathStat,
    PrepareRoot, PreparedRoot, ProcessId, ProcessInfo, ProcessSpec, Processes, Ready, Refusal, Request,
    RequestId, Response, Rlimit, RlimitKind, SPOKEN, StartedProcess, Statistics, StreamKind, TerminalSize,
    TmpfsMount, TrafficStatistics, Version, WritableLayer, read_frame, write_frame,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Set to have the file written instead of compared.
const UPDATE: &str = "CAPSID_UPDATE_WIRE";

#[derive(Default)]
struct Snapshot {
    text: String,
}

impl Snapshot {
    /// Adds a message by its frame, and checks that the frame is read back as the message.
    fn add<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(&mut self, name: &str, message: M) {
        let mut frame = Vec::new();
        write_frame(&mut frame, RequestId(258), &message).expect("a small message");
        let (id, read): (_, M) = read_frame(&mut frame.as_slice()).expect("what was just written");
        assert_eq!((id, &read), (RequestId(258), &message), "{name}");
        let header: String = frame[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let body = String::from_utf8(frame[12..].to_vec()).expect("JSON is UTF-8");
        writeln!(self.text, "{name}\n  {header}\n  {body}").expect("a string");
    }
}

fn interface_address(address: &str, prefix: u8, gateway: &str) -> InterfaceAddress {
    let parse = |text: &str| text.parse().expect("an address");
    InterfaceAddress { address: parse(address), prefix, gateway: parse(gateway) }
}

fn prepare_root() -> PrepareRoot {
    PrepareRoot {
        layers: 3,
        writable: WritableLayer::Disk,
        read_only: true,
        folders: vec!["/data".to_owned()],
        sysctls: vec![("kernel.msgmax".to_owned(), "1000".to_owned())],
        tmpfs: vec![TmpfsMount { path: "/run".to_owned(), options: "size=1m,exec".to_owned() }],
        shm_bytes: 67_108_864,
        hostname: "box".to_owned(),
        extra_hosts: vec![("10.0.0.9".to_owned(), "db".to_owned())],
        resolv_conf: Some("nameserver 10.0.0.1\n".to_owned()),
        network: Some(NetworkSetup {
            mtu: 65520,
            addresses: vec![
                interface_address("10.0.0.2", 24, "10.0.0.1"),
                interface_address("fd00::2", 64, "fd00::1"),
            ],
        }),
        limits: Limits { memory_bytes: Some(1 << 28), cpu_quota_us: Some(150_000), pids: Some(100) },
        privileged: false,
        realtime_ns: Some(1_700_000_000_000_000_000),
    }
}

fn process_spec() -> ProcessSpec {
    ProcessSpec {
        process: ProcessId::INIT,
        args: vec!["sh".to_owned(), "-c".to_owned(), "echo \"ü\"".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        identity: Identity { user: "web:www".to_owned(), additional_groups: vec!["50".to_owned()] },
        terminal: Some(TerminalSize { rows: 24, columns: 80 }),
        stdin: true,
        rlimits: vec![Rlimit { kind: RlimitKind::Nofile, soft: 1024, hard: u64::MAX }],
        capabilities: Capability::DOCKER_DEFAULT.to_vec(),
        no_new_privileges: true,
        init: true,
    }
}

fn add_openings(snapshot: &mut Snapshot) {
    let milestones = vec![Milestone { name: "agent-start".to_owned(), at_us: 40_000 }];
    let (agent, kernel) = ("0.1.0".to_owned(), "6.12.0".to_owned());
    snapshot.add("Ready", Ready { speaks: SPOKEN, agent, kernel, milestones });
    snapshot.add("Opening::Control", Opening::Control { speaks: SPOKEN });
    let process = ProcessId(7);
    for stream in [StreamKind::Stdout, StreamKind::Stderr, StreamKind::Terminal] {
        let opening = Opening::Output { process, stream, from: Some(4096) };
        snapshot.add(&format!("Opening::Output {stream:?}"), opening);
    }
    let stream = StreamKind::Stdout;
    snapshot.add("Opening::Output, the least", Opening::Output { process, stream, from: None });
    snapshot.add("Opening::Input", Opening::Input { process });
    snapshot.add("OpeningReply::Control", OpeningReply::Control(ControlAccepted { version: Version(1) }));
    let accepted = OutputAccepted { acknowledged: 4096, produced: 5000 };
    snapshot.add("OpeningReply::Output", OpeningReply::Output(accepted));
    snapshot.add("OpeningReply::Input", OpeningReply::Input);
    let refusal = Refusal { code: ErrorCode::Conflict, message: "taken".to_owned() };
    snapshot.add("OpeningReply::Refused", OpeningReply::Refused(refusal));
}

fn add_requests(snapshot: &mut Snapshot) {
    let process = ProcessId(7);
    snapshot.add("Request::PrepareRoot", Request::PrepareRoot(Box::new(prepare_root())));
    let least = PrepareRoot {
        writable: WritableLayer::Memory { bytes: 1 << 20 },
        resolv_conf: None,
        network: None,
        limits: Limits::default(),
        realtime_ns: None,
        folders: Vec::new(),
        sysctls: Vec::new(),
        ..prepare_root()
    };
    snapshot.add("Request::PrepareRoot, the least", Request::PrepareRoot(Box::new(least)));
    snapshot.add("Request::StartProcess", Request::StartProcess(Box::new(process_spec())));
    let least = ProcessSpec { terminal: None, rlimits: Vec::new(), ..process_spec() };
    snapshot.add("Request::StartProcess, the least", Request::StartProcess(Box::new(least)));
    snapshot.add("Request::Signal", Request::Signal { process, signal: 15 });
    snapshot.add("Request::Resize", Request::Resize { process, size: TerminalSize { rows: 1, columns: 2 } });
    snapshot.add("Request::Wait", Request::Wait { process });
    snapshot.add("Request::Shutdown", Request::Shutdown);
    snapshot.add("Request::Processes", Request::Processes);
    snapshot.add("Request::Statistics", Request::Statistics);
    let changes = LimitChanges {
        memory_bytes: Some(Limit::Most(64 << 20)),
        cpu_quota_us: Some(Limit::None),
        pids: Some(Limit::Most(100)),
    };
    snapshot.add("Request::SetLimits", Request::SetLimits(changes));
    snapshot.add("Request::SetLimits, the least", Request::SetLimits(LimitChanges::default()));
}

fn add_responses(snapshot: &mut Snapshot) {
    snapshot.add("Response::Done", Response::Done);
    snapshot.add("Response::Prepared", Response::Prepared(PreparedRoot { at_us: 50_000 }));
    snapshot.add("Response::Started", Response::Started(StartedProcess { pid: 1, at_us: 60_000 }));
    for status in [ExitStatus::Code(3), ExitStatus::Signal(9)] {
        let report = ExitReport { status, at_us: 70_000, oom_killed: true };
        snapshot.add(&format!("Response::Exited {status:?}"), Response::Exited(report));
    }
    let codes = [
        ErrorCode::InvalidArgument,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::InvalidState,
        ErrorCode::Unsupported,
        ErrorCode::Internal,
        ErrorCode::CommandNotFound,
        ErrorCode::CommandNotExecutable,
    ];
    for code in codes {
        let refusal = Refusal { code, message: "why".to_owned() };
        snapshot.add(&format!("Response::Failed {code:?}"), Response::Failed(refusal));
    }
    snapshot.add("Response::Processes", Response::Processes(processes()));
    snapshot.add("Response::Statistics", Response::Statistics(Box::new(statistics())));
}

fn processes() -> Processes {
    let process = ProcessInfo {
        pid: 2,
        parent: 1,
        uid: 1000,
        gid: 100,
        state: 'S',
        threads: 3,
        nice: -5,
        session: 1,
        group: 2,
        terminal: 34816,
        foreground: 2,
        started_us: 80_000,
        cpu_us: 20_000,
        virtual_bytes: 1 << 20,
        resident_bytes: 1 << 16,
        name: "sh".to_owned(),
        args: vec!["sh".to_owned(), "-c".to_owned()],
    };
    Processes { processes: vec![process], left_out: 1, at_us: 90_000, memory_bytes: 512 << 20 }
}

fn statistics() -> Statistics {
    let traffic = TrafficStatistics { bytes: 100, packets: 2, errors: 0, dropped: 1 };
    Statistics {
        at_us: 90_000,
        processors: 2,
        cpu: CpuStatistics {
            total_us: 30,
            user_us: 20,
            system_us: 10,
            periods: 4,
            throttled_periods: 1,
            throttled_us: 5,
        },
        memory: MemoryStatistics {
            current: 4096,
            peak: 8192,
            limit: 64 << 20,
            limit_reached: 1,
            details: [("anon".to_owned(), 4096)].into(),
        },
        pids: 3,
        pids_limit: Some(100),
        block: vec![BlockStatistics {
            major: 254,
            minor: 16,
            read_bytes: 4096,
            written_bytes: 512,
            reads: 1,
            writes: 2,
        }],
        interfaces: vec![InterfaceStatistics { name: "eth0".to_owned(), received: traffic, sent: traffic }],
    }
}

fn add_files(snapshot: &mut Snapshot) {
    let path = || "/etc/".to_owned();
    let works = [
        FilesWork::StatPath { path: path() },
        FilesWork::ReadTree { path: path() },
        FilesWork::WriteTree {
            path: path(),
            no_overwrite_dir_non_dir: true,
            owner: Some("web:7".to_owned()),
        },
        FilesWork::WriteTree { path: path(), no_overwrite_dir_non_dir: false, owner: None },
        FilesWork::Changes,
        FilesWork::Export,
    ];
    for work in works {
        snapshot.add("Opening::Files", Opening::Files(work));
    }
    let stat = PathStat {
        name: "mtab".to_owned(),
        size: 12,
        mode: 0o120_777,
        mtime_seconds: -1,
        mtime_nanoseconds: 500_000_000,
        link_target: "/proc/mounts".to_owned(),
    };
    snapshot.add("OpeningReply::Path", OpeningReply::Path(stat));
    snapshot.add("OpeningReply::Files", OpeningReply::Files);
    let change = |path: &str, kind| FileChange { path: path.to_owned(), kind };
    let changes = vec![
        change("/etc", ChangeKind::Modified),
        change("/etc/new", ChangeKind::Added),
        change("/etc/old", ChangeKind::Deleted),
    ];
    snapshot.add("Response::Changes", Response::Changes(changes));
}

fn add_numbered(snapshot: &mut Snapshot) {
    for &kind in RlimitKind::ALL {
        snapshot.add(&format!("RlimitKind {}", kind.number()), kind);
    }
    for &capability in Capability::ALL {
        snapshot.add(&format!("Capability {}", capability.number()), capability);
    }
}

#[test]
fn the_wire_form_of_every_message_is_the_checked_in_one() {
    let mut snapshot = Snapshot::default();
    add_openings(&mut snapshot);
    add_requests(&mut snapshot);
    add_responses(&mut snapshot);
    add_numbered(&mut snapshot);
    add_files(&mut snapshot);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire.txt");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &snapshot.text).expect("the snapshot can be written");
    }
    let kept = std::fs::read_to_string(&path).expect("tests/wire.txt is there");
    for (number, (now, then)) in snapshot.text.lines().zip(kept.lines()).enumerate() {
        assert_eq!(now, then, "line {} of wire.txt; {UPDATE}=1 writes it anew", number + 1);
    }
    assert_eq!(snapshot.text.lines().count(), kept.lines().count(), "{UPDATE}=1 writes wire.txt anew");
}

#[test]
fn an_exit_report_of_an_agent_that_does_not_know_of_memory_is_read() {
    let report: ExitReport =
        serde_json::from_str(r#"{"status":{"code":3},"at_us":5}"#).expect("an old report");
    assert!(!report.oom_killed);
}
