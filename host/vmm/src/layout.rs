//! Every address of the machine, with its reason. x86-64 only.
//!
//! ```text
//! 0         500   7000   9000       20000      9fc00  a0000  100000            low end   c0000000   d0000000    fec00000
//! ├── GDT ──┼ zero ┼ page ┼ command  ┼ MP       ┼ (legacy ┼ kernel …  initramfs ┤  hole … ┤ virtio … ┤ IOAPIC, LAPIC ┤ 4 GiB: the rest
//!           page   tables  line       table      hole)
//! ```

/// The boot processor's segment descriptors: free memory below the zero page.
pub const GDT: u64 = 0x500;
/// `struct boot_params` (Linux, Documentation/arch/x86/zero-page.rst).
pub const ZERO_PAGE: u64 = 0x7000;
/// Top-level page table that maps the first GiB to itself; the two below follow it.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line with its final zero (`COMMAND_LINE_SIZE`, arch/x86/include/asm/setup.h).
pub const COMMAND_LINE_BYTES: usize = 2048;
/// The last KiB of base memory: one of the three places where the kernel looks for an MP table
/// (Intel MultiProcessor Specification 1.4, 4).
pub const MP_TABLE: u64 = 0x9_fc00;
/// Room for it.
pub const MP_TABLE_BYTES: usize = 0x400;
/// End of base memory: video memory and firmware are above in a PC, and the kernel keeps off.
pub const BASE_MEMORY_END: u64 = 0xa_0000;
/// Where memory goes on.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Memory ends here at the latest and goes on at 4 GiB: what lies between belongs to devices.
pub const DEVICE_HOLE: u64 = 0xc000_0000;
/// End of the hole.
pub const ABOVE_HOLE: u64 = 1 << 32;

/// The first virtio device's registers; each has a page.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Distance between two, and the size of each.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Interrupt lines for virtio devices: those that no PC device claims, the serial port's 4 left out.
pub const VIRTIO_LINES: [u8; 8] = [5, 6, 7, 9, 10, 11, 12, 14];

/// Three pages that Intel processors without "unrestricted guest" want for real mode (KVM_SET_TSS_ADDR): below the
/// BIOS area, where QEMU and the kernel's documentation have them.
pub const TSS: u64 = 0xfffb_d000;
/// Where the IOAPIC is (KVM's, and that of every PC).
pub const IOAPIC: u32 = 0xfec0_0000;
/// Where each processor sees its local APIC.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Input lines of the IOAPIC.
pub const IOAPIC_LINES: u8 = 24;

/// The first serial port, as on every PC.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_LINE: u8 = 4;
/// The keyboard controller's command port, which resets the machine.
pub const KEYBOARD_COMMAND_PORT: u16 = 0x64;
/// The command that pulses the reset line.
pub const KEYBOARD_RESET: u8 = 0xfe;
