//! The kernel's command line: what our machine needs, then what the launcher adds.

use std::fmt::Write;

use crate::layout;

/// The part that is ours. Each word says what goes wrong or slow without it:
///
/// - `console=ttyS0`: panics would be seen nowhere. `quiet`: each character of output is an exit.
/// - `reboot=t`: the default asks ACPI, BIOS and EFI first. A triple fault ends the machine.
/// - `panic=-1`: a panic would halt the guest for ever instead of ending the machine.
/// - `tsc=reliable no_timer_check`: the kernel would watch and test clocks that KVM vouches for.
/// - `8250.nr_uarts=1`: three more ports would be probed, all exits.
/// - `swiotlb=noforce`: above 3 GiB, 64 MiB would go to bounce buffers that virtio never uses.
/// - `dummy.numdummies=0`: every container would find an interface that nobody asked for.
/// - `page_reporting.page_reporting_order=4`: free memory would go back to the host by 2 MiB alone. By 64 KiB it pays
///   still, and what the boot used once does not stay.
/// - `noreplace-smp`: on one processor the kernel would patch away its thousands of lock prefixes one by one, two
///   switches of address space each; a prefix costs nothing to a processor that is alone.
const BASE: &str = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=1 \
                    swiotlb=noforce noreplace-smp dummy.numdummies=0 page_reporting.page_reporting_order=4";

/// Where a virtio device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioPlace {
    /// Its registers.
    pub address: u64,
    /// Its interrupt line.
    pub line: u8,
}

/// The launcher's words do not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the kernel's command line has {0} bytes; {max} is the most", max = layout::COMMAND_LINE_BYTES - 1)]
pub struct CommandLineError(usize);

/// Puts the line together.
///
/// # Errors
///
/// It is longer than the kernel reads: the end would be lost without a word.
pub fn command_line(devices: &[VirtioPlace], added: &str) -> Result<String, CommandLineError> {
    let mut line = String::with_capacity(layout::COMMAND_LINE_BYTES);
    line.push_str(BASE);
    for VirtioPlace { address, line: interrupt } in devices {
        // Writing to a string cannot fail.
        let _ = write!(line, " virtio_mmio.device=4K@{address:#x}:{interrupt}");
    }
    if !added.is_empty() {
        line.push(' ');
        line.push_str(added);
    }
    if line.len() < layout::COMMAND_LINE_BYTES { Ok(line) } else { Err(CommandLineError(line.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_additions_follow_the_base() {
        let line = command_line(&[VirtioPlace { address: 0xd000_1000, line: 6 }], "a=b").unwrap();
        assert!(line.ends_with(" virtio_mmio.device=4K@0xd0001000:6 a=b"));
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        assert!(command_line(&[], &"x".repeat(layout::COMMAND_LINE_BYTES)).is_err());
    }
}
