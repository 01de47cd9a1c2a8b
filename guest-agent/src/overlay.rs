//! The container's root: the image's layers and the writable layer, stacked.
//!
//! Works in the agent's own mount namespace, below the folders that [`crate::boot`] laid out. Nothing of a
//! container runs yet.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use capsid_protocol::WritableLayer;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::error::{Step, StepError};
use crate::mounts::{mount_named, mount_new};
use crate::placeholders;

/// Where the stacked root stands in the agent's mount namespace.
pub(crate) const ROOT: &str = "/root";
/// Where the writable layer is mounted: `upper` holds the changes, `work` is overlayfs's own.
pub(crate) const WRITABLE: &str = "/writable";
/// Each layer is mounted in a folder below this, by its number, while the root is being stacked.
const LAYERS: &str = "/layers";
/// Most layers: overlayfs takes 500 (`OVL_MAX_STACK`), the monitor composes 240.
pub(crate) const MAX_LAYERS: u32 = 256;

/// The kernel's own limits on an attribute's value and on the list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const MAX_ATTRIBUTE_BYTES: usize = 65_536;

/// Serial numbers that the monitor gives the disks.
const LAYERS_SERIAL: &str = "layers";
const WRITABLE_SERIAL: &str = "writable";

/// Stacks the root at [`ROOT`]. Afterwards the layers are held by the overlay alone. `resolv_conf` says whether
/// /etc/resolv.conf is to be mounted over.
///
/// # Errors
///
/// The step that the kernel refused; what is mounted by then stays.
pub(crate) fn stack(layers: u32, writable: WritableLayer, resolv_conf: bool) -> Result<(), StepError> {
    mount_layers(layers)?;
    placeholders::lay(&layer_folders(layers), resolv_conf)?;
    if mount_writable(writable)? == Upper::New {
        copy_attributes(&layer_folder(layers), &format!("{WRITABLE}/upper"))
            .step(|| "failed to give the root the image's attributes".to_owned())?;
    }
    let root = create_overlay(layers, Some(WRITABLE))?;
    move_mount(&root, "", CWD, ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step(|| "failed to attach the root".to_owned())?;
    for layer in 1..=layers {
        // The overlay has clones of its own; a layer that stays mounted here only costs memory.
        let _ = unmount(layer_folder(layer), UnmountFlags::DETACH);
    }
    Ok(())
}

/// The writable layer of the stacked root, and the root as it would be without it: the folders, named. The layers are
/// mounted once more for it, so the caller has mounts of its own, and takes them along when it ends.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn apart(layers: u32) -> Result<(OwnedFd, OwnedFd), StepError> {
    mount_layers(layers)?;
    let lower = create_overlay(layers, None)?;
    let path = format!("{WRITABLE}/upper");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(path.as_str(), flags, Mode::empty());
    Ok((upper.step(|| format!("failed to open {path}"))?, lower))
}

fn layer_folder(layer: u32) -> String {
    format!("{LAYERS}/{layer}")
}

/// Those of all layers, from the uppermost. An image without layers has one that is empty.
fn layer_folders(layers: u32) -> Vec<String> {
    (layers.min(1)..=layers).rev().map(layer_folder).collect()
}

/// Layers are read-only and keep set-id bits and device nodes, as Docker's do.
fn mount_layers(layers: u32) -> Result<(), StepError> {
    if layers == 0 {
        // overlayfs needs something below; an image without layers is empty.
        return make_folder(&layer_folder(0)).map(drop);
    }
    let disk = find_disk(LAYERS_SERIAL, "vda");
    for layer in 1..=layers {
        let folder = layer_folder(layer);
        make_folder(&folder)?;
        mount_named(&format!("/dev/{disk}{layer}"), "erofs", &folder, MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// Whether the writable layer has been a container's before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upper {
    New,
    Used,
}

fn mount_writable(writable: WritableLayer) -> Result<Upper, StepError> {
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
    let upper = make_folder(&format!("{WRITABLE}/upper"))?;
    make_folder(&format!("{WRITABLE}/work"))?;
    Ok(upper)
}

fn make_folder(path: &str) -> Result<Upper, StepError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(Upper::New),
        Err(Errno::EXIST) => Ok(Upper::Used),
        Err(error) => Err(StepError::new(format!("failed to make {path}"), error)),
    }
}

/// A stacked folder shows what the uppermost of its folders is like, and for the root that is the writable layer's
/// own: owner, mode, extended attributes and times come from the image's uppermost root. Times last, since the others
/// change them.
pub(crate) fn copy_attributes(from: &str, to: &str) -> std::io::Result<()> {
    let found = rustix::fs::stat(from)?;
    let (user, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    rustix::fs::chownat(CWD, to, Some(user), Some(group), AtFlags::empty())?;
    rustix::fs::chmod(to, Mode::from_raw_mode(found.st_mode))?;
    for name in attribute_names(from)? {
        // overlayfs's own marks say how the image's layers are stacked, not what the root is like.
        if !name.as_bytes().starts_with(b"trusted.overlay.") {
            let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
            let length = rustix::fs::getxattr(from, name.as_c_str(), value.as_mut_slice())?;
            rustix::fs::setxattr(to, name.as_c_str(), &value[..length], XattrFlags::empty())?;
        }
    }
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(found.st_atime, found.st_atime_nsec),
        last_modification: time(found.st_mtime, found.st_mtime_nsec),
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::empty())?)
}

fn attribute_names(path: &str) -> std::io::Result<Vec<CString>> {
    let mut names = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = rustix::fs::listxattr(path, names.as_mut_slice())?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| CString::new(name).map_err(std::io::Error::from)).collect()
}

/// The option string of mount(2) ends at one page, which 127 layers exceed: the new interface takes them one by one.
/// Without a place for changes the root is read-only.
fn create_overlay(layers: u32, writable: Option<&str>) -> Result<OwnedFd, StepError> {
    let failed = || format!("failed to stack {layers} layers");
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(failed)?;
    let set = |key: &str, value: &str| {
        fsconfig_set_string(&context, key, value)
            .step(|| format!("failed to set {key} of the root to {value}"))
    };
    set("source", "overlay")?;
    set("lowerdir+", placeholders::FOLDER)?;
    for folder in layer_folders(layers) {
        set("lowerdir+", &folder)?;
    }
    if let Some(writable) = writable {
        set("upperdir", &format!("{writable}/upper"))?;
        set("workdir", &format!("{writable}/work"))?;
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_folder_takes_mode_attributes_and_times_of_another() {
        // Not /tmp, which may be a file system without user attributes.
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o1751)).unwrap();
        rustix::fs::setxattr(&from, "user.note", b"kept", XattrFlags::empty()).unwrap();
        let then = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        std::fs::File::open(&from).unwrap().set_modified(then).unwrap();
        copy_attributes(from.to_str().unwrap(), to.to_str().unwrap()).unwrap();
        let metadata = to.metadata().unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.modified().unwrap()), (0o1751, then));
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&to, "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
    }
}
