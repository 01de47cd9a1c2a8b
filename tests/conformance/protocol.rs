//! What the command line does not use yet and the protocol promises: further processes, terminals, many waiters, a
//! control connection that is made again, pause and resume.

use std::time::Duration;

use capsid_protocol::{ErrorCode, ExitStatus, ProcessId, ProcessSpec, StreamKind, TerminalSize};
use capsid_runtime::agent::{Agent, OutputStream};
use capsid_runtime::sandbox::Sandbox;
use capsid_runtime::spec::RunOptions;
use capsid_vmm::control::{ControlReply, ControlRequest, MachineState};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::machine::{running, shell, writable};

/// A sandbox whose own process sleeps, and that process's description to make others from.
async fn sleeping() -> (Sandbox, ProcessSpec) {
    running(&RunOptions::default(), &writable()).await
}

/// The next `count` bytes of an output, acknowledged.
async fn next(output: &mut OutputStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let read = output.read(&mut bytes[filled..]).await.unwrap();
        assert_ne!(read, 0, "an early end");
        filled += read;
    }
    output.acknowledge(output.offset()).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Everything of an output up to its end, acknowledged as it comes.
async fn rest(mut output: OutputStream) -> String {
    let mut text = Vec::new();
    let mut block = vec![0; 64 << 10];
    loop {
        let count = output.read(&mut block).await.unwrap();
        output.acknowledge(output.offset()).await.unwrap();
        if count == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.extend_from_slice(&block[..count]);
    }
}

#[tokio::test]
async fn further_processes_share_the_container_and_have_streams_of_their_own() {
    let (sandbox, init) = sleeping().await;
    let agent = sandbox.agent();
    let stdout = agent.open_output(ProcessId(1), StreamKind::Stdout, 0).await.unwrap();
    let mut stdin = agent.open_input(ProcessId(1)).await.unwrap();
    let mut spec = shell(&init, 1, "cat; cat /proc/1/cmdline | tr '\\0' ' '; exit 5");
    spec.stdin = true;
    agent.start_process(spec).await.unwrap();
    stdin.write_all(b"typed ").await.unwrap();
    stdin.finish().await.unwrap();
    let (one, other) = tokio::join!(agent.wait(ProcessId(1)), agent.wait(ProcessId(1)));
    assert_eq!((one.unwrap().status, other.unwrap().status), (ExitStatus::Code(5), ExitStatus::Code(5)));
    assert_eq!(rest(stdout).await, "typed sleep 1000 ");
    // The end is still known.
    assert_eq!(agent.wait(ProcessId(1)).await.unwrap().status, ExitStatus::Code(5));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_further_process_can_have_a_terminal_that_is_resized() {
    let (sandbox, init) = sleeping().await;
    let agent = sandbox.agent();
    let mut terminal = agent.open_output(ProcessId(2), StreamKind::Terminal, 0).await.unwrap();
    let mut input = agent.open_input(ProcessId(2)).await.unwrap();
    let mut spec = shell(&init, 2, "stty size; read line; stty size; echo $line");
    spec.terminal = Some(TerminalSize { rows: 30, columns: 90 });
    agent.start_process(spec).await.unwrap();
    assert_eq!(next(&mut terminal, 7).await, "30 90\r\n");
    agent.resize(ProcessId(2), TerminalSize { rows: 31, columns: 91 }).await.unwrap();
    input.write_all(b"typed\n").await.unwrap();
    assert_eq!(agent.wait(ProcessId(2)).await.unwrap().status, ExitStatus::Code(0));
    assert_eq!(rest(terminal).await, "typed\r\n31 91\r\ntyped\r\n");
    sandbox.stop().await;
}

#[tokio::test]
async fn refusals_have_codes_and_leave_the_agent_well() {
    let (sandbox, init) = sleeping().await;
    let agent = sandbox.agent();
    let code =
        |result: Result<_, capsid_runtime::agent::AgentError>| result.err().and_then(|error| error.code());
    assert_eq!(code(agent.signal(ProcessId(9), 15).await), Some(ErrorCode::NotFound));
    assert_eq!(code(agent.wait(ProcessId(9)).await.map(|_| ())), Some(ErrorCode::NotFound));
    let again = agent.start_process(shell(&init, 0, "true")).await.map(|_| ());
    assert_eq!(code(again), Some(ErrorCode::Conflict));
    let mut missing = shell(&init, 3, "");
    missing.args = vec!["/no/such".into()];
    assert_eq!(code(agent.start_process(missing).await.map(|_| ())), Some(ErrorCode::CommandNotFound));
    agent.start_process(shell(&init, 4, "exit 1")).await.unwrap();
    assert_eq!(agent.wait(ProcessId(4)).await.unwrap().status, ExitStatus::Code(1));
    sandbox.stop().await;
}

#[tokio::test]
async fn signals_kill_and_the_containers_end_ends_its_processes() {
    let (sandbox, init) = sleeping().await;
    let agent = sandbox.agent();
    agent.start_process(shell(&init, 5, "exec sleep 1000")).await.unwrap();
    agent.signal(ProcessId(5), 15).await.unwrap();
    assert_eq!(agent.wait(ProcessId(5)).await.unwrap().status, ExitStatus::Signal(15));
    agent.start_process(shell(&init, 6, "exec sleep 1000")).await.unwrap();
    agent.signal(ProcessId::INIT, 9).await.unwrap();
    assert_eq!(agent.wait(ProcessId::INIT).await.unwrap().status, ExitStatus::Signal(9));
    assert_eq!(agent.wait(ProcessId(6)).await.unwrap().status, ExitStatus::Signal(9));
    sandbox.shut_down().await.unwrap();
}

#[tokio::test]
async fn control_can_be_made_again_while_the_container_goes_on() {
    let (sandbox, init) = sleeping().await;
    let second = Agent::connect(sandbox.monitor().vsock_path()).await.unwrap();
    second.start_process(shell(&init, 7, "exit 8")).await.unwrap();
    assert_eq!(second.wait(ProcessId(7)).await.unwrap().status, ExitStatus::Code(8));
    second.signal(ProcessId::INIT, 9).await.unwrap();
    assert_eq!(second.wait(ProcessId::INIT).await.unwrap().status, ExitStatus::Signal(9));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_paused_machine_does_nothing_until_it_is_resumed() {
    let (sandbox, init) = sleeping().await;
    let (agent, monitor) = (sandbox.agent(), sandbox.monitor());
    assert_eq!(monitor.ask(ControlRequest::Pause).await.unwrap(), ControlReply::Done);
    let state = monitor.ask(ControlRequest::State).await.unwrap();
    assert!(matches!(state, ControlReply::State { state: MachineState::Paused, .. }), "{state:?}");
    {
        let start = agent.start_process(shell(&init, 8, "exit 2"));
        tokio::pin!(start);
        assert!(timeout(Duration::from_secs(3), &mut start).await.is_err(), "a paused guest answered");
        assert_eq!(monitor.ask(ControlRequest::Resume).await.unwrap(), ControlReply::Done);
        start.await.unwrap();
    }
    assert_eq!(agent.wait(ProcessId(8)).await.unwrap().status, ExitStatus::Code(2));
    sandbox.stop().await;
}
