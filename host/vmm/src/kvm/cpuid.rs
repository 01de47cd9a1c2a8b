//! What the guest's processors say of themselves: what KVM supports on this host, less what is not for guests, and
//! with each processor's place.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

// Leaves (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E).
const FEATURES: u32 = 0x1;
const CACHES: u32 = 0x4;
const POWER: u32 = 0x6;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const AMD_FEATURES: u32 = 0x8000_0001;
const AMD_SIZES: u32 = 0x8000_0008;
const AMD_SVM: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE: u32 = 0x8000_0022;

// Leaf 1, ECX and EDX.
const VMX: u32 = 1 << 5;
const DEADLINE_TIMER: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const SEVERAL_PROCESSORS: u32 = 1 << 28;
// Leaf 0x8000_0001, ECX.
const AMD_SEVERAL_PROCESSORS: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const PERFORMANCE_COUNTERS: u32 = (1 << 23) | (1 << 24) | (1 << 28);
// Leaf 6, ECX: the energy bias register, which KVM does not have.
const ENERGY_BIAS: u32 = 1 << 3;

// Level types of the topology leaves.
const THREAD_LEVEL: u32 = 1;
const CORE_LEVEL: u32 = 2;

/// The table for processor `number` of `count`. All sit as cores of one package, one thread each.
pub(super) fn of_vcpu(supported: &CpuId, number: u8, count: u8, deadline_timer: bool) -> CpuId {
    let mut cpuid = supported.clone();
    let place = Place { number: u32::from(number), count: u32::from(count), deadline_timer };
    for entry in cpuid.as_mut_slice() {
        place.adapt(entry);
    }
    cpuid
}

struct Place {
    number: u32,
    count: u32,
    deadline_timer: bool,
}

impl Place {
    fn adapt(&self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            FEATURES => self.adapt_features(entry),
            CACHES | AMD_CACHES => self.adapt_cache(entry),
            POWER => entry.ecx &= !ENERGY_BIAS,
            // No performance counters: a side channel for a guest, and each of their registers an exit at boot.
            PERFORMANCE | AMD_PERFORMANCE | AMD_SVM => clear(entry),
            TOPOLOGY | TOPOLOGY_V2 => self.adapt_topology(entry),
            AMD_FEATURES => {
                // A guest's guests are none of ours to risk.
                entry.ecx &= !(SVM | PERFORMANCE_COUNTERS | AMD_SEVERAL_PROCESSORS);
                if self.count > 1 {
                    entry.ecx |= AMD_SEVERAL_PROCESSORS;
                }
            }
            AMD_SIZES => entry.ecx = (entry.ecx & !0xf0ff) | (self.width() << 12) | (self.count - 1),
            AMD_TOPOLOGY => {
                entry.eax = self.number;
                entry.ebx = self.number; // core number, one thread per core
                entry.ecx = 0; // one node
            }
            _ => {}
        }
    }

    fn adapt_features(&self, entry: &mut kvm_cpuid_entry2) {
        entry.ebx = (entry.ebx & 0xffff) | (self.number << 24) | (self.count.next_power_of_two() << 16);
        entry.ecx = (entry.ecx & !(VMX | DEADLINE_TIMER)) | HYPERVISOR;
        if self.deadline_timer {
            entry.ecx |= DEADLINE_TIMER;
        }
        entry.edx &= !SEVERAL_PROCESSORS;
        if self.count > 1 {
            entry.edx |= SEVERAL_PROCESSORS;
        }
    }

    /// The last level is shared by all, the others by none.
    fn adapt_cache(&self, entry: &mut kvm_cpuid_entry2) {
        let level = (entry.eax >> 5) & 7;
        if entry.eax & 0x1f == 0 {
            return;
        }
        let sharing = if level >= 3 { self.count - 1 } else { 0 };
        entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        if entry.function == CACHES {
            entry.eax |= (self.count.next_power_of_two() - 1) << 26;
        }
    }

    fn adapt_topology(&self, entry: &mut kvm_cpuid_entry2) {
        let (shift, threads, level) = match entry.index {
            0 => (0, 1, THREAD_LEVEL),
            1 => (self.width(), self.count, CORE_LEVEL),
            _ => (0, 0, 0),
        };
        entry.eax = shift;
        entry.ebx = threads;
        entry.ecx = entry.index | (level << 8);
        entry.edx = self.number;
    }

    /// Bits of an APIC number that tell the package's processors apart.
    fn width(&self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(function: u32, index: u32, number: u8, count: u8) -> kvm_cpuid_entry2 {
        let full = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[full]).unwrap();
        of_vcpu(&supported, number, count, true).as_slice()[0]
    }

    #[test]
    fn each_processor_has_its_number() {
        let features = adapted(FEATURES, 0, 3, 4);
        assert_eq!(features.ebx >> 16, 0x0304);
        assert_eq!(features.ecx & (VMX | HYPERVISOR | DEADLINE_TIMER), HYPERVISOR | DEADLINE_TIMER);
        assert_eq!(adapted(FEATURES, 0, 0, 1).edx & SEVERAL_PROCESSORS, 0);
        let cores = adapted(TOPOLOGY, 1, 5, 6);
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 5));
        assert_eq!(adapted(AMD_SIZES, 0, 5, 6).ecx & 0xf0ff, 0x3005);
    }

    #[test]
    fn nothing_for_nested_guests_or_counters_is_left() {
        assert_eq!(adapted(AMD_FEATURES, 0, 0, 1).ecx & (SVM | PERFORMANCE_COUNTERS), 0);
        assert_eq!(adapted(PERFORMANCE, 0, 0, 1).eax, 0);
    }
}
