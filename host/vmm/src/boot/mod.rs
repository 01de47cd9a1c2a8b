//! What stands in memory when the guest's first instruction runs: kernel, initial file system, command line, boot
//! parameters, MP table, page tables. x86-64 only.
//!
//! The kernel is entered by the 64-bit protocol (Linux, Documentation/arch/x86/boot.rst), without firmware: there is
//! no ACPI, so the MP table is how it learns of its processors and interrupt lines.

mod command_line;
mod kernel;
mod mp_table;
mod parameters;

use std::fs::File;

use vm_memory::GuestMemoryMmap;

pub use command_line::{CommandLineError, VirtioPlace, command_line};
pub use kernel::KernelError;
pub(crate) use parameters::write_page_tables;

use crate::memory::{self, MemoryError, PAGE};

/// Why a guest's memory could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel's file is not one that can be booted.
    #[error("failed to load the kernel")]
    Kernel(#[from] KernelError),
    /// Something does not fit.
    #[error("failed to lay out the guest's memory")]
    Memory(#[from] MemoryError),
    /// The initial file system's file could not be asked for its size.
    #[error("failed to load the initial file system")]
    Initramfs(#[source] std::io::Error),
}

/// Fills memory for `vcpus` processors and devices at `lines`. Returns the address of the guest's first instruction.
///
/// # Errors
///
/// The files are not what they should be, or memory is too small for them.
pub fn prepare(
    memory: &GuestMemoryMmap,
    kernel: &File,
    initramfs: &File,
    command_line: &str,
    (vcpus, lines): (u8, &[u8]),
) -> Result<u64, BootError> {
    let kernel = kernel::load(memory, kernel)?;
    let initramfs = load_initramfs(memory, initramfs, kernel.end)?;
    parameters::write(memory, command_line, &initramfs)?;
    mp_table::write(memory, vcpus, lines)?;
    Ok(kernel.entry)
}

/// At the top of low memory, out of the way of everything that the kernel places by itself.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    file: &File,
    kernel_end: u64,
) -> Result<std::ops::Range<u64>, BootError> {
    let length = file.metadata().map_err(BootError::Initramfs)?.len();
    let start = memory::low_end(memory).checked_sub(length).map(|start| start / PAGE * PAGE);
    let start = start.filter(|start| *start >= kernel_end);
    let start =
        start.ok_or(MemoryError::DoesNotFit { what: "the initial file system", address: kernel_end })?;
    memory::load(memory, start, (file, 0, length), "the initial file system")?;
    Ok(start..start + length)
}
