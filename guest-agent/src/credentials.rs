//! A process's rights: limits, capabilities, user.
//!
//! Docker's seccomp profile is left out on purpose: it keeps a container from the kernel that it shares with its
//! host. This kernel is the container's own, and a call that breaks it breaks this machine alone.

use capsid_protocol::{Capability, Rlimit, RlimitKind};
use rustix::fs::{Gid, Uid};
use rustix::process::{Resource, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::error::{Step, StepError};
use crate::identity::User;

/// Sets the limits that are named; the others stay.
///
/// # Errors
///
/// A limit that the kernel refuses, by its name.
pub(crate) fn set_limits(limits: &[Rlimit]) -> Result<(), StepError> {
    for limit in limits {
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        setrlimit(resource(limit.kind), new)
            .step(|| format!("error setting rlimit type {} ({})", limit.kind.number(), limit.kind.name()))?;
    }
    Ok(())
}

fn resource(kind: RlimitKind) -> Resource {
    match kind {
        RlimitKind::Cpu => Resource::Cpu,
        RlimitKind::Fsize => Resource::Fsize,
        RlimitKind::Data => Resource::Data,
        RlimitKind::Stack => Resource::Stack,
        RlimitKind::Core => Resource::Core,
        RlimitKind::Rss => Resource::Rss,
        RlimitKind::Nproc => Resource::Nproc,
        RlimitKind::Nofile => Resource::Nofile,
        RlimitKind::Memlock => Resource::Memlock,
        RlimitKind::As => Resource::As,
        RlimitKind::Locks => Resource::Locks,
        RlimitKind::Sigpending => Resource::Sigpending,
        RlimitKind::Msgqueue => Resource::Msgqueue,
        RlimitKind::Nice => Resource::Nice,
        RlimitKind::Rtprio => Resource::Rtprio,
        RlimitKind::Rttime => Resource::Rttime,
    }
}

/// Becomes the user with exactly these capabilities, as Docker has it: root has them permitted and effective,
/// another user in the bounding set alone; nothing is inheritable or ambient.
///
/// # Errors
///
/// The step that the kernel refused.
pub(crate) fn assume(
    user: &User,
    capabilities: &[Capability],
    no_new_privileges: bool,
) -> Result<(), StepError> {
    let kept = set_of(capabilities);
    for capability in Capability::ALL.iter().filter(|capability| !capabilities.contains(capability)) {
        remove_capability_from_bounding_set(set_of(&[*capability]))
            .step(|| format!("failed to drop {}", capability.name()))?;
    }
    let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    set_thread_groups(&groups).step(|| "failed to set the groups".to_owned())?;
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid).step(|| format!("failed to become group {}", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid).step(|| format!("failed to become user {}", user.uid))?;
    let held = if user.uid == 0 { kept } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).step(|| "failed to set the capabilities".to_owned())?;
    if no_new_privileges {
        set_no_new_privs(true).step(|| "failed to forbid new privileges".to_owned())?;
    }
    Ok(())
}

fn set_of(capabilities: &[Capability]) -> CapabilitySet {
    let bits = capabilities.iter().fold(0, |bits, capability| bits | (1_u64 << capability.number()));
    CapabilitySet::from_bits_retain(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_kernels_bits() {
        assert_eq!(set_of(&[Capability::Chown, Capability::SysAdmin]).bits(), 1 | 1 << 21);
        assert_eq!(set_of(Capability::ALL).bits(), (1 << 41) - 1);
    }
}
