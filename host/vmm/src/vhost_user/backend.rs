//! The emulator's messages, one method each.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::Milestone;
use super::rings::{Calls, Regions, Ring, RingAddresses};
use crate::devices::virtio::{Activation, GuestMemory, VirtioDevice};

/// Most bytes of configuration space that are read at once: no device has more.
const MAX_CONFIG_BYTES: u32 = 256;

/// A device and what the emulator has said about it so far.
pub(super) struct Backend {
    device: Box<dyn VirtioDevice>,
    configured: Option<Milestone>,
    features: u64,
    regions: Regions,
    memory: Option<GuestMemory>,
    rings: Vec<Ring>,
    calls: Arc<Calls>,
    active: bool,
}

impl Backend {
    pub(super) fn new(device: Box<dyn VirtioDevice>, configured: Option<Milestone>) -> Backend {
        let sizes = device.queue_sizes();
        let rings = sizes.iter().map(|&size| Ring { size, ..Ring::default() }).collect();
        let calls = Calls::new(sizes.len());
        let (regions, memory) = (Regions::default(), None);
        Backend { device, configured, features: 0, regions, memory, rings, calls, active: false }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index)).ok_or(Error::InvalidParam)
    }

    /// Activates the device once every ring that was configured is enabled too. The emulator configures all before it
    /// enables the first; it keeps some to itself (the socket device's event queue).
    fn start_if_ready(&mut self) -> Result<()> {
        let mut configured = self.rings.iter().filter(|ring| ring.is_configured()).peekable();
        let ready = configured.peek().is_some() && configured.all(|ring| ring.enabled);
        let Some(memory) = self.memory.clone().filter(|_| ready && !self.active) else { return Ok(()) };
        let features = self.features & self.device.features();
        let mapped = memory.memory();
        let mut queues = Vec::with_capacity(self.rings.len());
        for (index, ring) in (0u16..).zip(&self.rings).filter(|(_, ring)| ring.is_configured()) {
            queues.push(ring.build(index, features, &mapped).map_err(failed)?);
        }
        drop(mapped);
        let activation = Activation { memory, queues, interrupt: self.calls.clone(), features };
        self.device.activate(activation).map_err(failed)?;
        self.active = true;
        Ok(())
    }

    fn stop(&mut self) {
        self.device.reset();
        self.active = false;
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    eprintln!("capsid-vmm: failed to start a device: {}", crate::engine::describe(&error));
    Error::ReqHandlerError(io::Error::other(error))
}

const UNSUPPORTED: Error = Error::InvalidOperation("not supported");

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        for ring in &mut self.rings {
            *ring = Ring { size: ring.size, ..Ring::default() };
        }
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.features = features;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let (regions, mapped) = Regions::map(table, files).ok_or(Error::InvalidParam)?;
        self.regions = regions;
        match &self.memory {
            // A device that runs sees the new table at its next batch.
            Some(memory) => replace(memory, mapped)?,
            None => self.memory = Some(GuestMemoryAtomic::new(mapped)),
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.ring(index)?.size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let translate = |address| self.regions.guest_address(address).ok_or(Error::InvalidParam);
        let addresses = RingAddresses {
            descriptors: translate(descriptor)?,
            available: translate(available)?,
            used: translate(used)?,
        };
        self.ring(index)?.addresses = Some(addresses);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    /// Stops the device. The emulator only asks because the driver resets it, after which rings begin at zero again:
    /// a machine is never paused by way of this.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        self.stop();
        let ring = self.ring(index)?;
        (ring.kick, ring.enabled) = (None, false);
        Ok(VhostUserVringState::new(index, u32::from(ring.base)))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        self.ring(index.into())?.kick = kick;
        self.start_if_ready()
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.ring(index.into())?;
        self.calls.set(index.into(), call);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _error: Option<File>) -> Result<()> {
        self.ring(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        self.start_if_ready()
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let mut config = vec![0; size.min(MAX_CONFIG_BYTES) as usize];
        self.device.read_config(offset.into(), &mut config);
        if let Some(reached) = self.configured.take() {
            reached();
        }
        Ok(config)
    }

    /// No device has configuration that a driver could write.
    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Ok(())
    }

    fn set_gpu_socket(&mut self, _socket: GpuBackend) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(UNSUPPORTED)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(UNSUPPORTED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(UNSUPPORTED)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(UNSUPPORTED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(UNSUPPORTED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(UNSUPPORTED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(UNSUPPORTED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(UNSUPPORTED)
    }
}

fn replace(memory: &GuestMemory, mapped: GuestMemoryMmap) -> Result<()> {
    let guard = memory.lock().map_err(|_| Error::BackendInternalError)?;
    guard.replace(mapped);
    Ok(())
}
