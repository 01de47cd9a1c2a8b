//! One processor's run loop: everything that the guest does outside its memory comes out here.

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::kick::Arm;

/// What answers the guest's accesses to ports and device memory. Called from processors' threads, several at once.
pub trait Ports: Sync {
    /// The guest wrote to a port. Whether it asked for a reset by that.
    fn port_write(&self, port: u16, data: &[u8]) -> bool;
    /// The guest reads from a port.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// The guest wrote outside its memory.
    fn memory_write(&self, address: u64, data: &[u8]);
    /// The guest reads outside its memory.
    fn memory_read(&self, address: u64, data: &mut [u8]);
}

/// Why a processor stopped running.
#[derive(Debug)]
pub enum Exit {
    /// Another thread asked for it.
    Kicked,
    /// The guest reset or ended its machine.
    Reset,
    /// The processor cannot go on.
    Broken {
        /// How and where.
        reason: String,
    },
}

/// One processor, on its way to the thread that runs it.
pub struct Vcpu {
    fd: VcpuFd,
}

/// A processor that runs on this thread. From now on every kick of the thread takes effect: in the run that is under
/// way, or else in the next.
pub struct BoundVcpu {
    /// Dropped first: it points into the other.
    _arm: Arm,
    fd: VcpuFd,
}

/// What one run of the guest came to, without a loan of the processor.
enum Turn {
    Again,
    Exit(Exit),
    Broken(String),
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd) -> Vcpu {
        Vcpu { fd }
    }

    /// Binds it to this thread, which runs no other at the same time. A kick of before is lost: who looks for a reason
    /// not to run does so after this.
    #[must_use]
    pub fn bind(mut self) -> BoundVcpu {
        BoundVcpu { _arm: Arm::new(self.fd.get_kvm_run()), fd: self.fd }
    }
}

impl BoundVcpu {
    /// Runs the guest until something ends it; may be called again after [`Exit::Kicked`].
    pub fn run(&mut self, ports: &impl Ports) -> Exit {
        loop {
            match self.turn(ports) {
                Turn::Again => {}
                Turn::Exit(exit) => return exit,
                Turn::Broken(what) => return self.broken(&what),
            }
        }
    }

    fn turn(&mut self, ports: &impl Ports) -> Turn {
        match self.fd.run() {
            Ok(VcpuExit::MmioWrite(address, data)) => ports.memory_write(address, data),
            Ok(VcpuExit::MmioRead(address, data)) => ports.memory_read(address, data),
            Ok(VcpuExit::IoIn(port, data)) => ports.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if ports.port_write(port, data) {
                    return Turn::Exit(Exit::Reset);
                }
            }
            // A triple fault: how the kernel reboots.
            Ok(VcpuExit::Shutdown) => return Turn::Exit(Exit::Reset),
            Ok(VcpuExit::SystemEvent(kind, _)) => return system_event(kind),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Turn::Broken(format!(
                    "failed to enter the guest (reason {reason:#x}, host processor {cpu})"
                ));
            }
            Ok(VcpuExit::InternalError) => return Turn::Broken("KVM met an internal error".to_owned()),
            Ok(other) => return Turn::Broken(format!("KVM stopped with {other:?}")),
            Err(error) if error.errno() == libc::EINTR => {
                self.fd.set_kvm_immediate_exit(0);
                return Turn::Exit(Exit::Kicked);
            }
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => return Turn::Broken(format!("KVM failed to run it: {error}")),
        }
        Turn::Again
    }

    /// With what tells a bug report's reader where the guest was.
    fn broken(&mut self, what: &str) -> Exit {
        let place = match self.fd.get_regs() {
            Ok(registers) => format!("instruction at {:#x}", registers.rip),
            Err(error) => format!("registers unknown: {error}"),
        };
        let run = self.fd.get_kvm_run();
        let reason = run.exit_reason;
        let detail = if reason == kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
            // SAFETY: for this exit reason the kernel filled in this member; it is plain numbers in any case.
            let suberror = unsafe { run.__bindgen_anon_1.internal }.suberror;
            format!(", suberror {suberror}")
        } else {
            String::new()
        };
        Exit::Broken { reason: format!("{what}: {place}, exit reason {reason}{detail}") }
    }
}

fn system_event(kind: u32) -> Turn {
    match kind {
        KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_CRASH => {
            Turn::Exit(Exit::Reset)
        }
        other => Turn::Broken(format!("KVM reported the unknown event {other}")),
    }
}
