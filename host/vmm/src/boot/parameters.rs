//! The zero page, the command line, and the page tables and segments of the 64-bit entry (Linux,
//! Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use std::ops::Range;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, GuestMemoryBackend, GuestMemoryMmap};

use crate::layout;
use crate::memory::{self, MemoryError};

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448; // "HdrS"
const LOADER_WITHOUT_NUMBER: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
// E820 types.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const TABLE_ENTRIES: u64 = 512;
const LARGE_PAGE_SHIFT: u64 = 21;

/// Flat segments for the entry: 64-bit code at 0x10, data at 0x18 (the protocol's `__BOOT_CS` and `__BOOT_DS`).
pub(super) const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

pub(super) fn write(
    memory: &GuestMemoryMmap,
    command_line: &str,
    initramfs: &Range<u64>,
) -> Result<(), MemoryError> {
    let mut text = Vec::with_capacity(command_line.len() + 1);
    text.extend(command_line.as_bytes());
    text.push(0);
    memory::write(memory, layout::COMMAND_LINE, &text, "the command line")?;
    let page = zero_page(memory, command_line, initramfs);
    memory::write(memory, layout::ZERO_PAGE, page.as_slice(), "the zero page")?;
    write_page_tables(memory)?;
    let segments: Vec<u8> = SEGMENTS.iter().flat_map(|segment| segment.to_le_bytes()).collect();
    memory::write(memory, layout::GDT, &segments, "the segment descriptors")
}

fn zero_page(memory: &GuestMemoryMmap, command_line: &str, initramfs: &Range<u64>) -> Box<boot_params> {
    let mut page = Box::new(boot_params::default());
    let header = &mut page.hdr;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.type_of_loader = LOADER_WITHOUT_NUMBER;
    header.kernel_alignment = KERNEL_ALIGNMENT;
    header.cmd_line_ptr = below_4_gib(layout::COMMAND_LINE);
    header.cmdline_size = below_4_gib(command_line.len() as u64);
    header.ramdisk_image = below_4_gib(initramfs.start);
    header.ramdisk_size = below_4_gib(initramfs.end - initramfs.start);
    let ranges = [
        (0..layout::MP_TABLE, RAM),
        (layout::MP_TABLE..layout::BASE_MEMORY_END, RESERVED),
        (layout::HIGH_MEMORY..memory::low_end(memory), RAM),
    ];
    let above = memory.iter().skip(1).map(|region| {
        use vm_memory::{Address, GuestMemoryRegion};
        let start = region.start_addr().raw_value();
        (start..start + region.len(), RAM)
    });
    for (range, kind) in ranges.into_iter().chain(above) {
        let entry = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: kind };
        page.e820_table[usize::from(page.e820_entries)] = entry;
        page.e820_entries += 1;
    }
    page
}

/// The first GiB, onto itself, in pages of 2 MiB: the kernel, the zero page and the command line lie in it.
pub(crate) fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    let table = |number: u64| layout::PAGE_TABLES + number * memory::PAGE;
    let entry = |address: u64| (address | PRESENT_WRITABLE).to_le_bytes();
    memory::write(memory, table(0), &entry(table(1)), "the page tables")?;
    memory::write(memory, table(1), &entry(table(2)), "the page tables")?;
    let pages: Vec<u8> = (0..TABLE_ENTRIES)
        .flat_map(|page| ((page << LARGE_PAGE_SHIFT) | LARGE | PRESENT_WRITABLE).to_le_bytes())
        .collect();
    memory::write(memory, table(2), &pages, "the page tables")
}

/// Low memory ends below 4 GiB, and all of this lies in it.
fn below_4_gib(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
