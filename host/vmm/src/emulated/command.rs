//! The emulator's command line. Pure: numbers of descriptors in, arguments out.
//!
//! Nothing is given by path, so the emulator opens nothing but its own firmware; nothing is a QEMU drive, so no format
//! is ever probed; every device that handles the guest's data is ours, over vhost-user, but for two: random numbers,
//! and the network card, whose frames we see at its socket.

use std::os::fd::RawFd;

use crate::boot::{self, CommandLineError};
use crate::network::MacAddress;

/// The program, looked up in PATH unless the launcher names another.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// The machine.
///
/// - `x-option-roms=off`, `acpi=off`: with these the firmware is qboot, which starts the kernel within milliseconds and
///   leaves an MP table behind, from which the kernel learns of its processors and interrupt lines.
/// - `isa-serial=on`: the console.
/// - `rtc=on`: without the chip the kernel waits a second for it.
/// - `pit=on`, `pic=on`: without them the kernel finds no timer interrupt and counts time wrongly during its boot.
/// - `usb`, `pcie`, `graphics`: off, as nothing needs them.
const MACHINE: &str = "microvm,x-option-roms=off,acpi=off,isa-serial=on,rtc=on,pit=on,pic=on,usb=off,pcie=off,\
                       graphics=off,memory-backend=memory";

/// Multi-threaded where there is more than one processor. Translated code of a guest and its programs hardly exceeds
/// what the cache holds at this size, in MiB; the default is up to a gigabyte, for each machine.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=128";

/// What a compromised emulator may not do: start programs, gain privileges, change its scheduling.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Kernel parameters of this engine, behind those that both have.
///
/// - `noreplace-smp`: with one processor the kernel would overwrite the lock prefixes of all its code, each time
///   throwing away translations: 60 ms of a boot. Without locks nothing would be faster.
/// - `mitigations=off`: they steer predictors of real processors, and no translated instruction runs as it was written.
///   The border to the host is the emulator's process, not these.
const KERNEL_PARAMETERS: &str = "noreplace-smp mitigations=off";

/// Room that the emulator needs on the kernel's command line to say where its transports are: three devices of ours
/// and two of its own, ` virtio_mmio.device=512@0xfeb02e00:23` each.
const TRANSPORTS_BYTES: usize = 5 * 37;

/// What the command line is made of. Descriptors are the emulator's own, inherited under the same numbers.
pub(super) struct Plan<'a> {
    pub(super) vcpus: u8,
    pub(super) memory_mib: u32,
    pub(super) kernel: RawFd,
    pub(super) initramfs: RawFd,
    pub(super) command_line: &'a str,
    /// Rate of the time-stamp counter, if known.
    pub(super) tsc_khz: Option<u64>,
    /// Sockets of the devices that we serve, in the order in which the guest is to find them.
    pub(super) devices: &'a [ServedDevice],
    pub(super) network: Option<Card>,
}

/// The network card.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card {
    /// The emulator's end of its socket.
    pub(super) socket: RawFd,
    pub(super) mac: MacAddress,
}

/// A device of ours.
pub(super) struct ServedDevice {
    pub(super) kind: ServedKind,
    /// The emulator's end of its socket.
    pub(super) socket: RawFd,
    /// The largest size of its queues.
    pub(super) queue_size: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServedKind {
    Block,
    Socket,
}

/// The arguments, without the program's name.
///
/// # Errors
///
/// The kernel would cut off the end of its command line.
pub(super) fn arguments(plan: &Plan<'_>) -> Result<Vec<String>, CommandLineError> {
    let mut arguments = Arguments(Vec::new());
    arguments.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    arguments.option("-display", "none").option("-sandbox", SANDBOX);
    arguments.option("-machine", MACHINE).option("-accel", ACCELERATOR);
    arguments.option("-cpu", "max").option("-smp", plan.vcpus.to_string());
    arguments.option("-m", format!("{}M", plan.memory_mib));
    let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", plan.memory_mib);
    arguments.option("-object", memory);
    // Modern virtio only (virtio 1.2, 4.2.2.2); the emulator's default is the old register layout.
    arguments.option("-global", "virtio-mmio.force-legacy=false");
    arguments.option("-kernel", format!("/proc/self/fd/{}", plan.kernel));
    arguments.option("-initrd", format!("/proc/self/fd/{}", plan.initramfs));
    arguments.option("-append", kernel_command_line(plan)?);
    // Its own standard output, which is a pipe to us.
    arguments.option("-chardev", "file,id=console,path=/proc/self/fd/1").option("-serial", "chardev:console");
    arguments.option("-object", "rng-builtin,id=entropy").option("-device", "virtio-rng-device,rng=entropy");
    // Each new device takes the free transport with the highest number, and the kernel finds them from there down.
    for (index, device) in plan.devices.iter().enumerate() {
        arguments.option("-chardev", format!("socket,id=device{index},fd={}", device.socket));
        arguments.option(
            "-device",
            match device.kind {
                ServedKind::Block => format!(
                    "vhost-user-blk,chardev=device{index},num-queues=1,queue-size={},config-wce=off",
                    device.queue_size
                ),
                ServedKind::Socket => format!("vhost-user-vsock-device,chardev=device{index}"),
            },
        );
    }
    if let Some(card) = plan.network {
        arguments.card(card);
    }
    Ok(arguments.0)
}

fn kernel_command_line(plan: &Plan<'_>) -> Result<String, CommandLineError> {
    let clock = plan.tsc_khz.map(|khz| format!(" tsc_early_khz={khz}")).unwrap_or_default();
    let space = if plan.command_line.is_empty() { "" } else { " " };
    let added = format!("{KERNEL_PARAMETERS}{clock}{space}{}", plan.command_line);
    // Checked with the room that must stay free, which is then given back.
    let padded = boot::command_line(&[], &format!("{added}{:TRANSPORTS_BYTES$}", ""))?;
    Ok(padded.trim_end().to_owned())
}

struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Arguments {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Arguments {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }

    /// Behind the others, so that the guest finds its disks where they always are.
    fn card(&mut self, card: Card) {
        let [a, b, c, d, e, f] = card.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        self.option("-netdev", format!("stream,id=network,server=off,addr.type=fd,addr.str={}", card.socket));
        self.option("-device", format!("virtio-net-device,netdev=network,mac={mac}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(devices: &'a [ServedDevice], command_line: &'a str) -> Plan<'a> {
        let (kernel, initramfs, tsc_khz) = (7, 8, Some(2_500_000));
        let network = Some(Card { socket: 9, mac: [2, 0, 0, 0, 0, 0xab] });
        Plan { vcpus: 2, memory_mib: 256, kernel, initramfs, command_line, tsc_khz, devices, network }
    }

    fn value_of<'a>(arguments: &'a [String], name: &str) -> &'a str {
        let at = arguments.iter().position(|argument| argument == name).expect("the option is there");
        &arguments[at + 1]
    }

    #[test]
    fn the_launchers_parameters_come_last() {
        let arguments = arguments(&plan(&[], "quiet=0 a=b")).expect("it fits");
        let line = value_of(&arguments, "-append");
        assert!(line.starts_with("console=ttyS0 "));
        assert!(line.ends_with(" tsc_early_khz=2500000 quiet=0 a=b"));
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        let room = (0..).find(|&count| arguments(&plan(&[], &"x".repeat(count))).is_err()).expect("an end");
        assert!((1500..2048 - TRANSPORTS_BYTES).contains(&room), "{room}");
    }

    #[test]
    fn nothing_is_named_by_path_and_nothing_is_a_drive() {
        let devices = [
            ServedDevice { kind: ServedKind::Block, socket: 20, queue_size: 256 },
            ServedDevice { kind: ServedKind::Socket, socket: 21, queue_size: 256 },
        ];
        let arguments = arguments(&plan(&devices, "")).expect("it fits");
        assert!(!arguments.iter().any(|argument| argument.contains("drive") || argument.contains("file=")));
        let paths = arguments.iter().filter(|argument| argument.contains('/'));
        assert!(paths.into_iter().all(|path| path.contains("/proc/self/fd/")));
        assert!(arguments.iter().any(|argument| argument == "socket,id=device1,fd=21"));
        assert_eq!(value_of(&arguments, "-netdev"), "stream,id=network,server=off,addr.type=fd,addr.str=9");
        let last = arguments.last().expect("some");
        assert_eq!(last, "virtio-net-device,netdev=network,mac=02:00:00:00:00:ab");
    }
}
