//! The boot processor's state at the guest's first instruction. What is not set here stands as KVM resets it: among
//! that the FPU, and the local APIC, whose LINT0 KVM sets to ExtINT on the boot processor.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use super::{KvmError, failed};
use crate::layout;

// Intel SDM volume 4.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 0x800 | 6;

// Intel SDM volume 3, 2.5 and 2.2.1.
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

const RFLAGS_RESERVED: u64 = 2;
/// Below the zero page; the kernel sets up a stack of its own with its first instructions.
const STACK: u64 = layout::ZERO_PAGE - 16;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// Without a default type of write-back, the kernel takes all memory for uncached.
pub(super) fn set_model_specific(fd: &VcpuFd) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries =
        [entry(MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLED_WRITE_BACK), entry(MSR_MISC_ENABLE, FAST_STRINGS)];
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Lacks("room for two registers"))?;
    // How many were taken: AMD's knows the first only, and the second is no loss.
    match fd.set_msrs(&msrs).map_err(failed("set model-specific registers"))? {
        0 => Err(KvmError::Lacks("memory type registers")),
        _ => Ok(()),
    }
}

/// The processor states that the guest may have, switched on as its kernel will do first thing. KVM tells the size of
/// their save area by what is on, and a host that lets the guest switch without an exit (QEMU's emulated AMD-V does)
/// would never learn of it: the kernel finds the size wrong, and does without AVX.
pub(super) fn set_extended_control(fd: &VcpuFd, cpuid: &CpuId) -> Result<(), KvmError> {
    const STATES: u32 = 0xd; // CPUID leaf, whose EDX:EAX is what XCR0 may be
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == STATES && entry.index == 0);
    let states = leaf.map_or(0, |entry| u64::from(entry.eax) | (u64::from(entry.edx) << 32));
    if states == 0 {
        return Ok(());
    }
    let mut registers = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    registers.xcrs[0].value = states;
    fd.set_xcrs(&registers).map_err(failed("switch on a processor's states"))
}

/// Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol": long mode, memory mapped onto itself, flat segments,
/// the zero page's address in RSI, interrupts off.
pub(super) fn set_boot_state(fd: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut special = fd.get_sregs().map_err(failed("read a processor's registers"))?;
    let code = segment(CODE_SELECTOR, 0xb, true);
    let data = segment(DATA_SELECTOR, 0x3, false);
    special.cs = code;
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.gdt.base = layout::GDT;
    special.gdt.limit = 4 * 8 - 1;
    special.idt.base = 0;
    special.idt.limit = 0;
    special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
    special.cr3 = layout::PAGE_TABLES;
    special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    special.efer = EFER_LONG_MODE | EFER_LONG_MODE_ACTIVE;
    fd.set_sregs(&special).map_err(failed("set a processor's registers"))?;
    let general = kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: STACK,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    fd.set_regs(&general).map_err(failed("set a processor's registers"))
}

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}
