//! The Intel MP table (MultiProcessor Specification 1.4), by which a kernel without ACPI learns of processors and
//! interrupt lines.

use vm_memory::GuestMemoryMmap;

use crate::layout;
use crate::memory::{self, MemoryError};

const SPECIFICATION_1_4: u8 = 4;
/// Versions as the chips of that time reported them; the kernel wants a local APIC of 0x10 or more.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const ISA_BUS: u8 = 0;
const POINTER_BYTES: u64 = 16;

// Entry types (4.3) and interrupt types (4.3.4).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const LINE: u8 = 3;
const LOCAL_LINE: u8 = 4;
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const EVERY_PROCESSOR: u8 = 0xff;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

/// `lines` are those that a device is at: each further one costs the guest dozens of exits at its boot.
pub(super) fn write(memory: &GuestMemoryMmap, vcpus: u8, lines: &[u8]) -> Result<(), MemoryError> {
    let table = table(vcpus, lines);
    debug_assert!(table.len() <= layout::MP_TABLE_BYTES);
    memory::write(memory, layout::MP_TABLE, &table, "the MP table")
}

fn table(vcpus: u8, lines: &[u8]) -> Vec<u8> {
    let mut bytes = floating_pointer();
    bytes.append(&mut configuration(vcpus, lines));
    bytes
}

/// 4.1.
fn floating_pointer() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(layout::MP_TABLE_BYTES);
    bytes.extend(b"_MP_");
    #[allow(clippy::cast_possible_truncation)] // below 1 MiB
    bytes.extend(((layout::MP_TABLE + POINTER_BYTES) as u32).to_le_bytes());
    bytes.extend([1, SPECIFICATION_1_4, 0, 0, 0, 0, 0, 0]); // length in 16 bytes, …, checksum, features: a table follows
    seal(&mut bytes, 10);
    bytes
}

/// 4.2 and 4.3. Processor and APIC numbers are the vCPU's; the IOAPIC takes the next.
fn configuration(vcpus: u8, lines: &[u8]) -> Vec<u8> {
    let ioapic = vcpus;
    let mut entries: Vec<u8> = Vec::new();
    let mut count: u16 = 0;
    let mut add = |entry: &[u8]| {
        entries.extend(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[PROCESSOR, id, LOCAL_APIC_VERSION, flags]);
        add(&entry);
    }
    add(&[BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut entry = [IOAPIC, ioapic, IOAPIC_VERSION, ENABLED, 0, 0, 0, 0];
    entry[4..].copy_from_slice(&layout::IOAPIC.to_le_bytes());
    add(&entry);
    for &line in lines {
        // Polarity and trigger as the bus has them: high and edge, which is how KVM's irqfd signals.
        add(&[LINE, VECTORED, 0, 0, ISA_BUS, line, ioapic, line]);
    }
    add(&[LOCAL_LINE, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[LOCAL_LINE, NMI, 0, 0, ISA_BUS, 0, EVERY_PROCESSOR, 1]);

    let mut bytes = Vec::with_capacity(44 + entries.len());
    bytes.extend(b"PCMP");
    bytes.extend(u16::try_from(44 + entries.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend([SPECIFICATION_1_4, 0]); // checksum later
    bytes.extend(b"CAPSID  CAPSID      ");
    bytes.extend([0; 6]); // no table of the maker's
    bytes.extend(count.to_le_bytes());
    bytes.extend(layout::LOCAL_APIC.to_le_bytes());
    bytes.extend([0; 4]); // no extended entries
    bytes.append(&mut entries);
    seal(&mut bytes, 7);
    bytes
}

/// All bytes add up to zero.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = sum.wrapping_neg();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VCPUS;

    #[test]
    fn the_tables_of_every_size_fit_and_add_up() {
        let lines: Vec<u8> = (0..layout::IOAPIC_LINES).collect();
        for vcpus in 1..=MAX_VCPUS {
            let bytes = table(vcpus, &lines);
            assert!(bytes.len() <= layout::MP_TABLE_BYTES, "{vcpus} processors take {} bytes", bytes.len());
            let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum(&bytes[..16]), 0);
            assert_eq!(sum(&bytes[16..]), 0);
            let length = usize::from(u16::from_le_bytes([bytes[20], bytes[21]]));
            assert_eq!(length, bytes.len() - 16);
            let count = u16::from_le_bytes([bytes[16 + 34], bytes[16 + 35]]);
            assert_eq!(count, u16::from(vcpus) + 2 + 24 + 2);
        }
    }
}
