//! What a machine is made of: plain data, checked once, before anything is built.
//!
//! The launcher hands every file to the monitor as an open descriptor and names it here by its number in the
//! monitor's process ([`Descriptor`]), so the monitor needs no access to any path. The configuration itself comes
//! as JSON on the descriptor that `--config-fd` names.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::MacAddress;

/// Most processors of a machine: what the guest kernel is built for (`NR_CPUS`).
pub const MAX_VCPUS: u8 = 32;
/// Least memory of a machine, in MiB: below it the kernel does not reach its init.
pub const MIN_MEMORY_MIB: u32 = 64;
/// Most memory of a machine, in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// Most files that the layer disk is composed of: 127 layers of an image and one of attributes, with room.
pub const MAX_LAYERS: usize = 240;
/// Most console output that is kept, in bytes: it goes into one report and one reply.
pub const MAX_CONSOLE_BYTES: u32 = 16 << 20;
/// The least vsock address of a guest; 0 to 2 are taken (virtio 1.2, 5.10.4).
pub const MIN_GUEST_CID: u32 = 3;

/// A descriptor's number in the monitor's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptor(pub RawFd);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Hardware virtualisation through /dev/kvm.
    Kvm,
    /// QEMU's microvm machine under TCG, with this process's devices over vhost-user.
    Emulated,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// What runs it.
    pub engine: Engine,
    /// Number of processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Memory in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// The guest kernel, an uncompressed ELF file.
    pub kernel: Descriptor,
    /// The initial file system, an uncompressed cpio archive.
    pub initramfs: Descriptor,
    /// Appended to the kernel's command line; printable ASCII.
    pub command_line: String,
    /// The read-only layer disk (the first block device): each file becomes one partition, in order, from
    /// partition 1. No disk if empty. Sizes must be whole multiples of 4096 bytes.
    pub layers: Vec<Descriptor>,
    /// The writable disk (the second block device), always raw; no format is ever probed.
    pub writable: Option<Descriptor>,
    /// The guest's socket device.
    pub vsock: VsockConfig,
    /// The guest's network card; none if absent.
    pub network: Option<NetworkConfig>,
    /// A listening unix stream socket for [`crate::control`].
    pub control: Descriptor,
    /// A pipe or socket whose other end the launcher holds: when that is closed, the machine is ended. For
    /// machines that must not outlive their launcher.
    pub lifeline: Option<Descriptor>,
    /// The write end of a pipe, or an empty file, to which one [`crate::control::EndReport`] is written, as JSON, when
    /// the machine ends. The end of the monitor without a report: it was killed.
    pub report: Descriptor,
    /// How much of the console's output is kept, in bytes, the newest; at most [`MAX_CONSOLE_BYTES`].
    pub console_bytes: u32,
    /// The emulator's program, for [`Engine::Emulated`]; looked up in PATH when absent.
    pub emulator: Option<PathBuf>,
}

/// The vsock device and its host side, which is a unix socket as in Firecracker's hybrid vsock: a client connects,
/// writes `CONNECT <port>\n`, reads `OK <its own port>\n`, and is connected to that port of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's address, at least [`MIN_GUEST_CID`].
    pub guest_cid: u32,
    /// The listening unix stream socket for connections to the guest.
    pub listener: Descriptor,
    /// For connections from the guest to port P of the host: the unix socket at this path with `_P` appended.
    /// Absent: the guest can connect to nothing.
    pub guest_dials: Option<PathBuf>,
}

/// The network card and its host side; see [`crate::network`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// A connected unix stream socket that carries frames behind their lengths, as passt and QEMU speak it. When its
    /// other end is closed the card's link goes down.
    pub socket: Descriptor,
    /// The card's address: unicast and not zero.
    pub mac: MacAddress,
    /// The address as which passt shows what comes through the host's loopback, if there is one: nothing but ICMP
    /// from there reaches the guest.
    pub gateway: Option<Ipv4Addr>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Too few or too many processors.
    #[error("a machine has 1 to {MAX_VCPUS} processors, not {0}")]
    Vcpus(u8),
    /// Too little or too much memory.
    #[error("a machine has {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB of memory, not {0}")]
    Memory(u32),
    /// More layers than the disk has partitions.
    #[error("the layer disk holds at most {MAX_LAYERS} layers, not {0}")]
    Layers(usize),
    /// Too much console output to keep.
    #[error("at most {MAX_CONSOLE_BYTES} bytes of console output are kept, not {0}")]
    Console(u32),
    /// An address that is taken.
    #[error("a guest's vsock address is at least {MIN_GUEST_CID}, not {0}")]
    GuestCid(u32),
    /// A group's address, or none, for the network card.
    #[error("a network card's address is unicast and not zero, unlike {0:02x?}")]
    Mac(MacAddress),
    /// Something that is not printable ASCII on the kernel's command line.
    #[error("the kernel's command line holds a character other than printable ASCII")]
    CommandLine,
    /// A number that cannot be a descriptor, or one that is used twice.
    #[error("descriptor {0} is negative, one of the standard streams, or named twice")]
    Descriptor(RawFd),
}

impl MachineConfig {
    /// Checks everything that can be checked without touching a descriptor.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(ConfigError::Layers(self.layers.len()));
        }
        if self.console_bytes > MAX_CONSOLE_BYTES {
            return Err(ConfigError::Console(self.console_bytes));
        }
        if self.vsock.guest_cid < MIN_GUEST_CID {
            return Err(ConfigError::GuestCid(self.vsock.guest_cid));
        }
        if let Some(network) = &self.network
            && (network.mac[0] & 1 != 0 || network.mac == MacAddress::default())
        {
            return Err(ConfigError::Mac(network.mac));
        }
        if !self.command_line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(ConfigError::CommandLine);
        }
        self.validate_descriptors()
    }

    /// Every descriptor that the configuration names, each of which the monitor takes ownership of.
    pub fn descriptors(&self) -> impl Iterator<Item = Descriptor> + '_ {
        [self.kernel, self.initramfs, self.vsock.listener, self.control, self.report]
            .into_iter()
            .chain(self.layers.iter().copied())
            .chain(self.writable)
            .chain(self.network.as_ref().map(|network| network.socket))
            .chain(self.lifeline)
    }

    /// Ownership is only sound when each number is named once.
    fn validate_descriptors(&self) -> Result<(), ConfigError> {
        let mut seen = std::collections::BTreeSet::new();
        let bad = self.descriptors().find(|descriptor| descriptor.0 <= 2 || !seen.insert(descriptor.0));
        bad.map_or(Ok(()), |descriptor| Err(ConfigError::Descriptor(descriptor.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MachineConfig {
        MachineConfig {
            engine: Engine::Kvm,
            vcpus: 1,
            memory_mib: 256,
            kernel: Descriptor(3),
            initramfs: Descriptor(4),
            command_line: "capsid.x=1".to_owned(),
            layers: vec![Descriptor(5), Descriptor(6)],
            writable: Some(Descriptor(7)),
            vsock: VsockConfig { guest_cid: 3, listener: Descriptor(8), guest_dials: None },
            network: Some(NetworkConfig {
                socket: Descriptor(12),
                mac: [2, 0, 0, 0, 0, 2],
                gateway: Some(Ipv4Addr::new(10, 0, 2, 1)),
            }),
            control: Descriptor(9),
            lifeline: Some(Descriptor(10)),
            report: Descriptor(11),
            console_bytes: 65536,
            emulator: None,
        }
    }

    #[test]
    fn a_sound_configuration_survives_json() {
        let config = config();
        assert_eq!(config.validate(), Ok(()));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MachineConfig>(&json).unwrap(), config);
    }

    fn with_card(config: &mut MachineConfig, change: fn(&mut NetworkConfig)) {
        config.network.iter_mut().for_each(change);
    }

    #[test]
    fn each_unsound_field_is_refused() {
        let refused = |change: fn(&mut MachineConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(refused(|c| c.vcpus = 0), ConfigError::Vcpus(0));
        assert_eq!(refused(|c| c.vcpus = MAX_VCPUS + 1), ConfigError::Vcpus(33));
        assert_eq!(refused(|c| c.memory_mib = 32), ConfigError::Memory(32));
        assert_eq!(refused(|c| c.console_bytes = u32::MAX), ConfigError::Console(u32::MAX));
        assert_eq!(refused(|c| c.vsock.guest_cid = 2), ConfigError::GuestCid(2));
        assert_eq!(refused(|c| c.command_line = "a\nb".to_owned()), ConfigError::CommandLine);
        assert_eq!(refused(|c| c.layers[1] = Descriptor(5)), ConfigError::Descriptor(5));
        assert_eq!(refused(|c| c.report = Descriptor(1)), ConfigError::Descriptor(1));
        assert_eq!(refused(|c| c.lifeline = Some(Descriptor(-1))), ConfigError::Descriptor(-1));
        assert_eq!(refused(|c| with_card(c, |card| card.mac = [0; 6])), ConfigError::Mac([0; 6]));
        assert_eq!(refused(|c| with_card(c, |card| card.mac = [0xff; 6])), ConfigError::Mac([0xff; 6]));
        assert_eq!(refused(|c| with_card(c, |card| card.socket = Descriptor(5))), ConfigError::Descriptor(5));
        assert_eq!(refused(|c| c.layers = (100..400).map(Descriptor).collect()), ConfigError::Layers(300));
    }
}
