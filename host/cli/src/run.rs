//! `capsid run`.
//!
//! ```text
//!  options ─▶ image ─▶ spec ─▶ container record ─▶ writable layer ─▶ machine ─▶ streams ─▶ process ─▶ exit code
//! ```

mod arguments;

use std::fs::File;
use std::io;

use capsid_image::{Hold, Image, Reference, ResolveError};
use capsid_protocol::{ExitReport, ProcessId, StreamKind};
use capsid_runtime::artifacts::Artifacts;
use capsid_runtime::container::ContainerState;
use capsid_runtime::engine::{ChosenEngine, EngineChoice, choose_engine};
use capsid_runtime::run_folder::RunFolders;
use capsid_runtime::sandbox::{Sandbox, SandboxError, SandboxParts, describe, engine_name};
use capsid_runtime::spec::{ContainerSpec, RunOptions};
use capsid_runtime::store::{ContainerStore, HeldContainer, unix_now};
use capsid_runtime::timeline::{HostMoment, Timeline};
use capsid_runtime::writable::{clone_template, clone_template_unnamed};
use rustix::stdio::{stderr, stdout};
use tokio::sync::mpsc;

pub(crate) use self::arguments::RunArguments;
use self::arguments::{EngineName, options};
use crate::failure::Failure;
use crate::signals::{self, Arrived};
use crate::state::State;
use crate::stdio::{OutputCopy, copy_input, copy_output};
use crate::terminal::{self, RawMode};
use crate::timings;

/// The exit code of a container whose machine vanished under it: as after SIGKILL.
const MACHINE_VANISHED: u8 = 137;
/// The exit code when nobody reads the output any more: as after SIGPIPE.
const OUTPUT_CLOSED: u8 = 141;
/// SIGHUP (signal(7)).
const HANG_UP: i32 = 1;
/// What a signal's number is added to.
const SIGNALLED: i32 = 128;

/// Everything that was settled before anything is made.
struct Plan {
    /// Held until the container's record says that it uses the image.
    hold: Option<Hold>,
    image: Image,
    image_name: String,
    options: RunOptions,
    engine: ChosenEngine,
    artifacts: Artifacts,
}

/// Runs a container to its end. The result is the container's exit code.
pub(crate) fn run(arguments: RunArguments, state: &State, started: HostMoment) -> Result<u8, Failure> {
    let mut timeline = Timeline::from(started);
    let mut plan = plan(&arguments, state)?;
    timeline.reached("image-resolved");
    let containers = state.containers().map_err(ours)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of_run(&error))?;
    let code = runtime.block_on(run_planned(&arguments, &mut plan, &containers, &mut timeline));
    if arguments.timings {
        timings::print(&timeline, engine_name(plan.engine.engine), arguments.format);
    }
    // Blocked threads (the one that reads the terminal) end with the process.
    runtime.shutdown_background();
    code
}

/// Failures of what all verbs share are `run`'s own here.
fn ours(failure: Failure) -> Failure {
    failure.into_run()
}

fn plan(arguments: &RunArguments, state: &State) -> Result<Plan, Failure> {
    let (image_name, command) =
        arguments.image_and_command.split_first().ok_or_else(|| Failure::of_run_text("no image"))?;
    if arguments.tty && arguments.interactive && !terminal::input_is_terminal() {
        return Err(Failure::text("the input device is not a TTY"));
    }
    let options = options(arguments, command)?;
    let images = state.images().map_err(ours)?;
    let hold = images.hold().map_err(|error| Failure::of_run(&error))?;
    let image = images.resolve(image_name).map_err(|error| not_resolved(image_name, &error))?;
    let artifacts = Artifacts::locate().map_err(|error| Failure::of_run(&error))?;
    let choice = match arguments.engine {
        None => EngineChoice::Automatic,
        Some(EngineName::Kvm) => EngineChoice::Kvm,
        Some(EngineName::Emulated) => EngineChoice::Emulated,
    };
    let engine = choose_engine(choice, state.folder()).map_err(|error| Failure::of_run(&error))?;
    if let Some(notice) = &engine.notice {
        eprintln!("capsid: {notice}");
    }
    Ok(Plan { hold: Some(hold), image, image_name: image_name.clone(), options, engine, artifacts })
}

/// In docker's words, which programs look for.
fn not_resolved(name: &str, error: &ResolveError) -> Failure {
    match (error, name.parse::<Reference>()) {
        (ResolveError::NotFound(_), Ok(reference)) => Failure::of_run_text(format!(
            "Unable to find image '{reference}' locally: load it with 'capsid load'"
        )),
        (ResolveError::NotFound(_), Err(invalid)) => Failure::of_run(&invalid),
        _ => Failure::of_run(error),
    }
}

async fn run_planned(
    arguments: &RunArguments,
    plan: &mut Plan,
    containers: &ContainerStore,
    timeline: &mut Timeline,
) -> Result<u8, Failure> {
    let mut arrivals = signals::catch().map_err(|error| Failure::of_run(&error))?;
    let layers = plan.image.open_layers().map_err(|error| Failure::of_run(&error))?;
    let (mut held, spec) = create(arguments, plan, containers, layers.len())?;
    plan.hold = None;
    let outcome =
        run_held(&mut held, plan, &spec, layers, containers, &mut arrivals, timeline, arguments.sig_proxy)
            .await;
    timeline.reached("ended");
    finish(held, &outcome)?;
    outcome
}

/// Makes the container's record; nothing of the container is left when its wishes cannot be had.
fn create(
    arguments: &RunArguments,
    plan: &Plan,
    containers: &ContainerStore,
    layers: usize,
) -> Result<(HeldContainer, ContainerSpec), Failure> {
    let layers = u32::try_from(layers).unwrap_or(u32::MAX);
    // Whatever does not depend on the identifier is refused before there is a container.
    let draft = ContainerSpec::merge(&plan.image.config, &plan.options, "0", layers);
    let command = draft.map_err(|error| Failure::of_run(&error))?.process.args;
    let held = containers.create(arguments.name.clone(), |record| {
        record.image.clone_from(&plan.image_name);
        record.image_id = plan.image.id.to_string();
        record.command = command;
        record.auto_remove = arguments.rm;
        record.state = ContainerState::Running { since: unix_now() };
    });
    let held = held.map_err(|error| Failure::of_run(&error))?;
    let spec = ContainerSpec::merge(&plan.image.config, &plan.options, held.record.id.short(), layers);
    let spec = spec.map_err(|error| Failure::of_run(&error))?;
    Ok((held, spec))
}

/// Writes the container's end down, or removes it.
fn finish(mut held: HeldContainer, outcome: &Result<u8, Failure>) -> Result<(), Failure> {
    if held.record.auto_remove {
        return held.remove().map_err(|error| Failure::of_run(&error));
    }
    let (code, reason) = match outcome {
        Ok(code) => (*code, None),
        Err(failure) => (failure.code(), Some(failure.message().to_owned())),
    };
    held.record.state = ContainerState::Exited { code, at: unix_now(), reason };
    held.save().map_err(|error| Failure::of_run(&error))
}

fn writable_layer(held: &HeldContainer, plan: &Plan, containers: &ContainerStore) -> Result<File, Failure> {
    let template = &plan.artifacts.writable_template;
    let made = if held.record.auto_remove {
        clone_template_unnamed(template, containers.scratch())
    } else {
        clone_template(template, &held.writable_path())
    };
    made.map_err(|error| Failure::of_run(&error))
}

#[allow(clippy::too_many_arguments)]
async fn run_held(
    held: &mut HeldContainer,
    plan: &Plan,
    spec: &ContainerSpec,
    layers: Vec<File>,
    containers: &ContainerStore,
    arrivals: &mut mpsc::UnboundedReceiver<Arrived>,
    timeline: &mut Timeline,
    sig_proxy: bool,
) -> Result<u8, Failure> {
    let writable = writable_layer(held, plan, containers)?;
    timeline.reached("writable-ready");
    let folders = RunFolders::open(containers.scratch()).map_err(|error| Failure::of_run(&error))?;
    let parts = SandboxParts {
        id: &held.record.id,
        artifacts: &plan.artifacts,
        engine: &plan.engine,
        spec,
        layers,
        writable,
        folders: &folders,
    };
    let sandbox = tokio::select! {
        booted = Sandbox::boot(parts, timeline) => booted.map_err(|error| Failure::of_sandbox(&error))?,
        signal = terminating(arrivals) => return Ok(signal_code(signal)),
    };
    let outcome = run_process(&sandbox, spec, arrivals, timeline, sig_proxy).await;
    // What is removed at its end need not be written to its disk.
    if held.record.auto_remove || outcome.is_err() {
        sandbox.stop().await;
    } else {
        sandbox.shut_down().await.map_err(|error| Failure::of_sandbox(&error))?;
    }
    sandbox.clear();
    outcome
}

/// A signal that ends this process by default, while there is no container to forward it to.
async fn terminating(arrivals: &mut mpsc::UnboundedReceiver<Arrived>) -> i32 {
    loop {
        match arrivals.recv().await {
            Some(Arrived::Signal(signal @ (1 | 2 | 3 | 15))) => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(SIGNALLED + signal).unwrap_or(MACHINE_VANISHED)
}

/// The container's output, in one stream or two.
struct Streams {
    outputs: Vec<OutputCopy>,
    /// Whether they are a terminal.
    terminal: bool,
    _raw: Option<RawMode>,
}

async fn run_process(
    sandbox: &Sandbox,
    spec: &ContainerSpec,
    arrivals: &mut mpsc::UnboundedReceiver<Arrived>,
    timeline: &mut Timeline,
    sig_proxy: bool,
) -> Result<u8, Failure> {
    let mut streams = open_streams(sandbox, spec).await?;
    let started = sandbox.or_ended(sandbox.agent().start_process(spec.process.clone())).await;
    let started = started.map_err(|error| Failure::of_sandbox(&error))?;
    timeline.guest("process-started", started.at_us);
    let report = await_exit(sandbox, &mut streams, arrivals, sig_proxy).await?;
    let report = match report {
        Ended::Exited(report) => report,
        Ended::OutputClosed => return Ok(OUTPUT_CLOSED),
        Ended::HungUp => return Ok(signal_code(HANG_UP)),
    };
    timeline.guest("process-exited", report.at_us);
    for output in &mut streams.outputs {
        let drained = output.drained().await;
        drained.map_err(|error| {
            Failure::of_run_text(format!("failed to write the container's output: {error}"))
        })?;
    }
    if let Some(first) = streams.outputs.iter().filter_map(OutputCopy::first_byte).min() {
        timeline.reached_at("first-byte", first);
    }
    Ok(report.status.exit_code())
}

/// Connects the streams before the process starts, so that no byte waits.
async fn open_streams(sandbox: &Sandbox, spec: &ContainerSpec) -> Result<Streams, Failure> {
    let output = async |kind| {
        let output = sandbox.or_ended(sandbox.agent().open_output(ProcessId::INIT, kind, 0)).await;
        let output = output.map_err(|error| Failure::of_sandbox(&error))?;
        output.into_blocking().map_err(local)
    };
    let input = async || {
        let input = sandbox.or_ended(sandbox.agent().open_input(ProcessId::INIT)).await;
        input.map_err(|error| Failure::of_sandbox(&error))?.into_blocking().map_err(local)
    };
    if spec.process.terminal.is_some() {
        let raw = if spec.process.stdin {
            let raw = RawMode::enter().map_err(local)?;
            copy_input(input().await?, false).map_err(local)?;
            Some(raw)
        } else {
            None
        };
        let output = copy_output(output(StreamKind::Terminal).await?, stdout()).map_err(local)?;
        return Ok(Streams { outputs: vec![output], terminal: true, _raw: raw });
    }
    if spec.process.stdin {
        copy_input(input().await?, true).map_err(local)?;
    }
    let errors = copy_output(output(StreamKind::Stderr).await?, stderr()).map_err(local)?;
    let output = copy_output(output(StreamKind::Stdout).await?, stdout()).map_err(local)?;
    Ok(Streams { outputs: vec![output, errors], terminal: false, _raw: None })
}

fn local(error: io::Error) -> Failure {
    Failure::of_run(&error)
}

/// What ended a run.
enum Ended {
    Exited(ExitReport),
    OutputClosed,
    /// The terminal is gone, and nobody can attach to the container again.
    HungUp,
}

/// Forwards signals and sizes until the process ends.
async fn await_exit(
    sandbox: &Sandbox,
    streams: &mut Streams,
    arrivals: &mut mpsc::UnboundedReceiver<Arrived>,
    sig_proxy: bool,
) -> Result<Ended, Failure> {
    let agent = sandbox.agent();
    let exit = sandbox.or_ended(agent.wait(ProcessId::INIT));
    tokio::pin!(exit);
    loop {
        tokio::select! {
            report = &mut exit => return match report {
                Ok(report) => {
                    if report.oom_killed {
                        eprintln!("capsid: the container ran out of memory, and the guest's kernel killed a process of it");
                    }
                    Ok(Ended::Exited(report))
                }
                Err(SandboxError::Ended(end)) => Err(Failure::of_run_code(MACHINE_VANISHED, format!("the machine ended: {}", describe(&end)))),
                Err(error) => Err(Failure::of_sandbox(&error)),
            },
            arrived = arrivals.recv() => match arrived {
                Some(Arrived::Signal(HANG_UP)) if streams.terminal => return Ok(Ended::HungUp),
                // A process that has just ended, or a terminal that is gone, is no failure of the run.
                Some(Arrived::Signal(signal)) if sig_proxy => drop(agent.signal(ProcessId::INIT, signal).await),
                Some(Arrived::WindowChanged) => drop(agent.resize(ProcessId::INIT, terminal::size()).await),
                Some(Arrived::Signal(_)) | None => {}
            },
            error = broken(&mut streams.outputs) => return match error.kind() {
                io::ErrorKind::BrokenPipe => Ok(Ended::OutputClosed),
                _ => Err(Failure::of_run_text(format!("failed to write the container's output: {error}"))),
            },
        }
    }
}

/// The first output that nobody reads any more.
async fn broken(outputs: &mut [OutputCopy]) -> io::Error {
    match outputs {
        [one, other, ..] => tokio::select! {
            error = one.broken() => error,
            error = other.broken() => error,
        },
        [one] => one.broken().await,
        [] => std::future::pending().await,
    }
}
