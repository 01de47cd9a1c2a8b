//! An output against a simple model: whatever happens in whatever order, what the host has put down by its offsets is
//! what the process wrote.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use capsid_protocol::{ErrorCode, OutputAccepted, StreamKind};
use proptest::prelude::*;
use rustix::event::PollFlags;

use super::{Output, Side, Streams, Which};
use crate::stdio::set_nonblocking;

#[derive(Debug, Clone)]
enum Step {
    /// The process writes, as much as its pipe takes.
    Write(usize),
    /// The host reads and puts down at most so much.
    Read(usize),
    /// The host acknowledges so many thousandths of what it has put down and not acknowledged, if it still stands.
    Acknowledge(usize),
    /// The host is killed while it writes an acknowledgement.
    Vanish,
    /// The next host opens the output from so many thousandths of what it may ask for.
    Open(usize),
    /// The agent looks.
    Pump,
    /// The process ends.
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_usize..150_000).prop_map(Step::Write),
        6 => (1_usize..150_000).prop_map(Step::Read),
        4 => (0_usize..=1000).prop_map(Step::Acknowledge),
        1 => Just(Step::Vanish),
        2 => (0_usize..=1000).prop_map(Step::Open),
        8 => Just(Step::Pump),
        1 => Just(Step::End),
    ];
    proptest::collection::vec(step, 0..120)
}

fn share_of(count: usize, permille: usize) -> usize {
    count * permille / 1000
}

/// A process, the agent's streams of it, and a host that puts down what it reads.
struct World {
    streams: Streams,
    /// The process's end of its pipe, until it ends.
    pipe: Option<std::fs::File>,
    written: Vec<u8>,
    host: Option<UnixStream>,
    /// What the host has put down, on a disk that outlives it.
    log: Vec<u8>,
    acknowledged: usize,
}

impl World {
    fn new() -> Self {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        set_nonblocking(ours.as_fd()).expect("a mode");
        set_nonblocking(theirs.as_fd()).expect("a mode");
        let output = Output::new(StreamKind::Stdout, ours, None);
        Self {
            streams: Streams::new(vec![output], None),
            pipe: Some(theirs.into()),
            written: Vec::new(),
            host: None,
            log: Vec::new(),
            acknowledged: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(count) => self.write(count),
            Step::Read(count) => drop(self.read(count)),
            Step::Acknowledge(permille) => {
                let open = self.log.len() - self.acknowledged;
                self.acknowledge(self.acknowledged + share_of(open, permille));
            }
            Step::Vanish => {
                if let Some(mut host) = self.host.take() {
                    let _ = host.write_all(&u64::MAX.to_le_bytes()[..3]);
                }
            }
            Step::Open(permille) => self.open(permille),
            Step::Pump => self.pump(),
            Step::End => self.end(),
        }
    }

    fn write(&mut self, count: usize) {
        let Some(pipe) = &mut self.pipe else { return };
        let from = self.written.len();
        let bytes: Vec<u8> =
            (from..from + count).map(|place| place.wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect();
        if let Ok(count) = pipe.write(&bytes) {
            self.written.extend(&bytes[..count]);
        }
    }

    /// Whether the host has seen the end.
    fn read(&mut self, count: usize) -> bool {
        let Some(host) = &mut self.host else { return false };
        let mut bytes = vec![0; count];
        match host.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) => self.log.extend(&bytes[..count]),
            // Something that was acknowledged was not read by the agent when it let go.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        false
    }

    fn acknowledge(&mut self, place: usize) {
        let Some(host) = &mut self.host else { return };
        if host.write_all(&(place as u64).to_le_bytes()).is_ok() {
            self.acknowledged = place;
        }
    }

    fn open(&mut self, permille: usize) {
        let from = self.acknowledged + share_of(self.log.len() - self.acknowledged, permille);
        let accepted = self.streams.output_from(StreamKind::Stdout, Some(from as u64));
        let accepted = accepted.expect("what was put down and not acknowledged can be had");
        assert!(accepted.acknowledged == from as u64 && accepted.produced <= self.written.len() as u64);
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("a mode");
        theirs.set_nonblocking(true).expect("a mode");
        // The part after it was put down by a host that did not tell; its successor drops it and reads it again.
        self.log.truncate(from);
        self.acknowledged = from;
        self.host = Some(ours);
        self.streams.attach_output(StreamKind::Stdout, theirs.into(), accepted, &[]);
    }

    fn pump(&mut self) {
        for side in [Side::Host, Side::Process] {
            self.streams.pump(Which::Output(StreamKind::Stdout), side, PollFlags::empty(), &mut []);
        }
        self.streams.tidy(Instant::now(), true);
    }

    fn end(&mut self) {
        self.pipe = None;
        self.streams.process_ended(Instant::now());
    }

    /// A host that does all that it should, from here to the end.
    fn finish(&mut self) {
        self.end();
        self.open(1000);
        while !self.read(100_000) {
            self.acknowledge(self.log.len());
            self.pump();
        }
        self.acknowledge(self.log.len());
        self.pump();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn what_the_host_put_down_is_what_the_process_wrote(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            prop_assert!(world.written.starts_with(&world.log));
        }
        world.finish();
        prop_assert!(world.written == world.log, "{} of {}", world.log.len(), world.written.len());
        prop_assert!(world.streams.are_over());
        let total = world.written.len() as u64;
        let over = Ok(OutputAccepted { acknowledged: total, produced: total });
        prop_assert_eq!(world.streams.output_from(StreamKind::Stdout, None), over.clone());
        prop_assert_eq!(world.streams.output_from(StreamKind::Stdout, Some(total)), over);
        let beyond = world.streams.output_from(StreamKind::Stdout, Some(total + 1));
        prop_assert_eq!(beyond.unwrap_err().code, ErrorCode::InvalidArgument);
    }
}
