//! Every KVM ioctl: the virtual machine with its interrupt controllers, and its processors.
//!
//! Nothing else in the crate knows of /dev/kvm. `machine` calls in this order: [`Vm::create`], memory, devices'
//! registers and events, [`Vm::create_vcpu`] for each processor, and at last [`BoundVcpu::run`] on a thread each.
#![allow(unsafe_code)]

mod cpuid;
mod kick;
mod registers;
mod vcpu;

use kvm_bindings::{
    CpuId, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

pub use kick::{Kicker, install as install_kick};
pub use vcpu::{BoundVcpu, Exit, Ports, Vcpu};

use crate::layout;

/// Which request to KVM failed.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// /dev/kvm is missing or closed to this user.
    #[error("failed to open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// The host's KVM is too old for us.
    #[error("the host's KVM lacks {0}")]
    Lacks(&'static str),
    /// A request failed.
    #[error("KVM failed to {what}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
}

fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Request { what, source }
}

/// A virtual machine without processors yet.
pub struct Vm {
    fd: VmFd,
    supported_cpuid: CpuId,
    deadline_timer: bool,
    slots: u32,
}

impl Vm {
    /// A machine with the interrupt controllers of a PC, all in the kernel.
    ///
    /// # Errors
    ///
    /// No usable KVM.
    pub fn create() -> Result<Vm, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        for (capability, name) in [
            (Cap::Irqchip, "an interrupt controller in the kernel"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::Irqfd, "irqfd"),
            (Cap::ImmediateExit, "immediate exits"),
            (Cap::ReadonlyMem, "read-only memory"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Lacks(name));
            }
        }
        let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        let supported_cpuid = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("tell what processors it supports"))?;
        let fd = kvm.create_vm().map_err(failed("create a machine"))?;
        fd.set_tss_address(crate::memory::to_usize(layout::TSS)).map_err(failed("place its task state"))?;
        fd.create_irq_chip().map_err(failed("create interrupt controllers"))?;
        let vm = Vm { fd, supported_cpuid, deadline_timer, slots: 0 };
        vm.create_timer_if_needed()?;
        Ok(vm)
    }

    /// A kernel that has the TSC's deadline timer never touches the old timer chip (`apic_needs_pit`,
    /// arch/x86/kernel/apic/apic.c), and KVM's costs a kernel thread.
    fn create_timer_if_needed(&self) -> Result<(), KvmError> {
        if self.deadline_timer {
            return Ok(());
        }
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.fd.create_pit2(config).map_err(failed("create a timer"))
    }

    /// Gives the guest its memory.
    ///
    /// # Errors
    ///
    /// KVM refused.
    pub fn map_memory(&mut self, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
        for region in memory.iter() {
            self.map(region, region.start_addr().raw_value(), 0)?;
        }
        Ok(())
    }

    /// Lets the guest read a device's registers without an exit; its writes still come out of [`BoundVcpu::run`].
    ///
    /// # Errors
    ///
    /// KVM refused.
    pub fn map_registers(&mut self, registers: &MmapRegion, address: u64) -> Result<(), KvmError> {
        self.map(registers, address, KVM_MEM_READONLY)
    }

    fn map(&mut self, region: &MmapRegion, address: u64, flags: u32) -> Result<(), KvmError> {
        let slot = kvm_userspace_memory_region {
            slot: self.slots,
            flags,
            guest_phys_addr: address,
            memory_size: region.size() as u64,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped with that size. `machine` keeps it until the process ends, and with it the
        // last processor; the guest's accesses race with ours, and all of ours are volatile or atomic.
        unsafe { self.fd.set_user_memory_region(slot) }.map_err(failed("map memory"))?;
        self.slots += 1;
        Ok(())
    }

    /// From now on a write of `queue` to `address` fires `kick`, without an exit.
    ///
    /// # Errors
    ///
    /// KVM refused.
    pub fn route_kick(&self, kick: &EventFd, address: u64, queue: u32) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(kick, &IoEventAddress::Mmio(address), queue)
            .map_err(failed("route a device's notification"))
    }

    /// From now on firing `trigger` raises an edge on an interrupt line.
    ///
    /// # Errors
    ///
    /// KVM refused.
    pub fn route_interrupt(&self, trigger: &EventFd, line: u8) -> Result<(), KvmError> {
        self.fd.register_irqfd(trigger, u32::from(line)).map_err(failed("route a device's interrupt"))
    }

    /// A processor. Number 0 is the one that begins, at `entry`; the others wait for it to start them.
    ///
    /// # Errors
    ///
    /// KVM refused.
    pub fn create_vcpu(&self, number: u8, count: u8, entry: u64) -> Result<Vcpu, KvmError> {
        let fd = self.fd.create_vcpu(u64::from(number)).map_err(failed("create a processor"))?;
        let cpuid = cpuid::of_vcpu(&self.supported_cpuid, number, count, self.deadline_timer);
        fd.set_cpuid2(&cpuid).map_err(failed("set a processor's features"))?;
        registers::set_extended_control(&fd, &cpuid)?;
        if number == 0 {
            registers::set_model_specific(&fd)?;
            registers::set_boot_state(&fd, entry)?;
        }
        Ok(Vcpu::new(fd))
    }
}
