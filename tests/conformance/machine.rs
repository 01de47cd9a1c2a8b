//! Machines by the runtime itself, for what the command line does not reach.

use std::fs::File;

use capsid_image::Store;
use capsid_protocol::{ProcessId, ProcessSpec};
use capsid_runtime::artifacts::Artifacts;
use capsid_runtime::container::ContainerId;
use capsid_runtime::engine::{EngineChoice, choose_engine};
use capsid_runtime::run_folder::RunFolders;
use capsid_runtime::sandbox::{Sandbox, SandboxParts};
use capsid_runtime::spec::{ContainerSpec, RunOptions};
use capsid_runtime::timeline::{HostMoment, Timeline};
use capsid_runtime::writable::clone_template;
use capsid_tests::host;

fn artifacts() -> Artifacts {
    Artifacts {
        kernel: host().guest_folder().join("vmlinux"),
        initramfs: host().guest_folder().join("initramfs.cpio"),
        writable_template: host().guest_folder().join("writable.ext4"),
        monitor: host().monitor(),
    }
}

/// A new writable layer.
pub(crate) fn writable() -> File {
    let folder = tempfile::tempdir_in(host().machines()).unwrap();
    // The file lives as long as somebody has it open.
    clone_template(&artifacts().writable_template, &folder.path().join("writable.ext4")).unwrap()
}

/// A machine of `busybox` whose root is prepared and whose own process has not been started; that process sleeps if
/// `options` say nothing else.
pub(crate) async fn prepared(options: &RunOptions, writable: &File) -> (Sandbox, ProcessSpec) {
    let artifacts = artifacts();
    let choice = if host().engine() == "kvm" { EngineChoice::Kvm } else { EngineChoice::Emulated };
    let engine = choose_engine(choice, &host().machines()).unwrap();
    let image = Store::open(&host().state()).unwrap().resolve("busybox").unwrap();
    let layers = image.open_layers().unwrap();
    let mut options = options.clone();
    if options.args.is_empty() {
        options.args = vec!["sleep".into(), "1000".into()];
    }
    let count = u32::try_from(layers.len()).unwrap();
    let spec = ContainerSpec::merge(&image.config, &options, "conformance", count).unwrap();
    let id = ContainerId::generate().unwrap();
    let writable = writable.try_clone().unwrap();
    let parts = SandboxParts {
        id: &id,
        artifacts: &artifacts,
        engine: &engine,
        spec: &spec,
        layers,
        writable,
        folders: &RunFolders::open(&host().machines()).unwrap(),
    };
    let sandbox = Sandbox::boot(parts, &mut Timeline::from(HostMoment::now())).await.unwrap();
    (sandbox, spec.process)
}

/// The same, with its process running.
pub(crate) async fn running(options: &RunOptions, writable: &File) -> (Sandbox, ProcessSpec) {
    let (sandbox, process) = prepared(options, writable).await;
    sandbox.agent().start_process(process.clone()).await.unwrap();
    (sandbox, process)
}

/// A further process like `of` that runs a script.
pub(crate) fn shell(of: &ProcessSpec, number: u32, script: &str) -> ProcessSpec {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    ProcessSpec { process: ProcessId(number), args, ..of.clone() }
}
