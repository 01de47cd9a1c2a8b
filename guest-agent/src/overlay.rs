//! The container's root: the image's layers and the writable layer, stacked.
//!
//! Works in the agent's own mount namespace, below the folders that [`crate::boot`] laid out. Nothing of a
//! container runs yet.

use std::os::fd::OwnedFd;

use capsid_protocol::WritableLayer;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::error::{Step, StepError};
use crate::mounts::{mount_named, mount_new};

/// Where the stacked root stands in the agent's mount namespace.
pub(crate) const ROOT: &str = "/root";
/// Where the writable layer is mounted: `upper` holds the changes, `work` is overlayfs's own.
pub(crate) const WRITABLE: &str = "/writable";
/// Each layer is mounted in a folder below this, by its number, while the root is being stacked.
const LAYERS: &str = "/layers";
/// Most layers: overlayfs takes 500 (`OVL_MAX_STACK`), the monitor composes 240.
pub(crate) const MAX_LAYERS: u32 = 256;

/// Serial numbers that the monitor gives the disks.
const LAYERS_SERIAL: &str = "layers";
const WRITABLE_SERIAL: &str = "writable";

/// Stacks the root at [`ROOT`]. Afterwards the layers are held by the overlay alone.
///
/// # Errors
///
/// The step that the kernel refused; what is mounted by then stays.
pub(crate) fn stack(layers: u32, writable: WritableLayer) -> Result<(), StepError> {
    mount_layers(layers)?;
    mount_writable(writable)?;
    let root = create_overlay(layers)?;
    move_mount(&root, "", CWD, ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step(|| "failed to attach the root".to_owned())?;
    for layer in 1..=layers {
        // The overlay has clones of its own; a layer that stays mounted here only costs memory.
        let _ = unmount(layer_folder(layer), UnmountFlags::DETACH);
    }
    Ok(())
}

fn layer_folder(layer: u32) -> String {
    format!("{LAYERS}/{layer}")
}

/// Layers are read-only and keep set-id bits and device nodes, as Docker's do.
fn mount_layers(layers: u32) -> Result<(), StepError> {
    if layers == 0 {
        // overlayfs needs something below; an image without layers is empty.
        return make_folder(&layer_folder(0));
    }
    let disk = find_disk(LAYERS_SERIAL, "vda");
    for layer in 1..=layers {
        let folder = layer_folder(layer);
        make_folder(&folder)?;
        mount_named(&format!("/dev/{disk}{layer}"), "erofs", &folder, MountFlags::RDONLY, "")?;
    }
    Ok(())
}

fn mount_writable(writable: WritableLayer) -> Result<(), StepError> {
    match writable {
        WritableLayer::Disk => {
            let disk = find_disk(WRITABLE_SERIAL, "vdb");
            // discard: blocks of removed files go back to the host at once. noinit_itable: no thread that zeroes
            // inode tables of a file system that lives for minutes.
            let options = "discard,noinit_itable,errors=remount-ro";
            mount_named(&format!("/dev/{disk}"), "ext4", WRITABLE, MountFlags::empty(), options)?;
        }
        WritableLayer::Memory { bytes } => {
            mount_new("tmpfs", WRITABLE, MountFlags::empty(), &format!("size={bytes},mode=755"))?;
        }
    }
    make_folder(&format!("{WRITABLE}/upper"))?;
    make_folder(&format!("{WRITABLE}/work"))
}

fn make_folder(path: &str) -> Result<(), StepError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(StepError::new(format!("failed to make {path}"), error)),
    }
}

/// The option string of mount(2) ends at one page, which 127 layers exceed: the new interface takes them one by one.
fn create_overlay(layers: u32) -> Result<OwnedFd, StepError> {
    let failed = || format!("failed to stack {layers} layers");
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(failed)?;
    let set = |key: &str, value: &str| {
        fsconfig_set_string(&context, key, value)
            .step(|| format!("failed to set {key} of the root to {value}"))
    };
    set("source", "overlay")?;
    for layer in (layers.min(1)..=layers).rev() {
        set("lowerdir+", &layer_folder(layer))?;
    }
    set("upperdir", &format!("{WRITABLE}/upper"))?;
    set("workdir", &format!("{WRITABLE}/work"))?;
    // Said, not left to the kernel's defaults: the changes must be readable as an image's layer, so there are no
    // redirects and no files without data; and stacking in another machine must find nothing bound to this one.
    set("redirect_dir", "off")?;
    set("metacopy", "off")?;
    set("index", "off")?;
    set("xino", "auto")?;
    fsconfig_create(&context).step(|| format!("{}{}", failed(), kernel_log(&context)))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).step(failed)
}

/// What the kernel said in the file system context, which is far more than an error number.
fn kernel_log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut line = [0; 256];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        if length == 0 || text.len() > 1024 {
            break;
        }
        text.push_str(" (");
        text.push_str(String::from_utf8_lossy(&line[..length]).trim_end());
        text.push(')');
    }
    text
}

/// The disk with that serial number; its usual name if none says so.
fn find_disk(serial: &str, usual: &'static str) -> &'static str {
    const NAMES: [&str; 4] = ["vda", "vdb", "vdc", "vdd"];
    let has_serial = |name: &&&str| {
        std::fs::read_to_string(format!("/sys/block/{name}/serial"))
            .is_ok_and(|text| text.trim_end() == serial)
    };
    let usual_first = [usual].into_iter().chain(NAMES.into_iter().filter(|name| *name != usual));
    let names: Vec<&'static str> = usual_first.collect();
    names.iter().find(has_serial).copied().unwrap_or(usual)
}
