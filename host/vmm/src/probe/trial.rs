//! The smallest guest: a loop at a kernel's privilege, timed.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{API_VERSION, UnusableReason};
use crate::kvm::{BoundVcpu, Exit, Kicker, KvmError, Ports, Vm, install_kick};
use crate::{boot, layout};

/// How often the loop goes round.
pub(super) const ITERATIONS: u32 = 100_000;

/// Even a KVM in software is through by then.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the guest may take to leave the processor when it is told to.
const KICK_PATIENCE: Duration = Duration::from_millis(500);

const MEMORY_BYTES: usize = 2 << 20;
const CODE: u64 = layout::HIGH_MEMORY;
/// The port that the guest writes to before and after the loop.
const MARK_PORT: u8 = 0x80;

/// One trial. Errors are reasons that no second one would change.
pub(super) fn run() -> Result<Duration, UnusableReason> {
    // Another signal handler would only matter to processors of this process, and it has none but this.
    install_kick().map_err(|error| internal(&error))?;
    let (sender, outcome) = mpsc::channel();
    let thread = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = sender.send(run_guest());
    });
    let kicker = Kicker::new(thread.map_err(|error| internal(&error))?);
    match outcome.recv_timeout(PATIENCE) {
        Ok(outcome) => return outcome,
        Err(RecvTimeoutError::Disconnected) => return Err(UnusableReason::Stuck),
        Err(RecvTimeoutError::Timeout) => kicker.kick(),
    }
    // If it does not even heed the kick, its thread stays behind, inside the kernel.
    match outcome.recv_timeout(KICK_PATIENCE) {
        Ok(Ok(took)) => Err(UnusableReason::TooSlow { took }),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(UnusableReason::Stuck),
    }
}

fn run_guest() -> Result<Duration, UnusableReason> {
    check_version()?;
    // Dropped last: KVM may touch it for as long as the machine is there.
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).map_err(|e| internal(&e))?;
    boot::write_page_tables(&memory).map_err(|error| internal(&error))?;
    memory.write_slice(&code(), GuestAddress(CODE)).map_err(|error| internal(&error))?;
    let mut vm = Vm::create().map_err(reason)?;
    vm.map_memory(&memory).map_err(reason)?;
    let mut vcpu = vm.create_vcpu(0, 1, CODE).map_err(reason)?.bind();
    // The first entry maps memory, and costs more than the loop where that is emulated.
    run_to_mark(&mut vcpu)?;
    run_to_mark(&mut vcpu)
}

/// How long the guest ran until it wrote to its port.
fn run_to_mark(vcpu: &mut BoundVcpu) -> Result<Duration, UnusableReason> {
    let before = Instant::now();
    match vcpu.run(&Marks) {
        Exit::Reset => Ok(before.elapsed()),
        Exit::Kicked => Err(UnusableReason::TooSlow { took: before.elapsed() }),
        Exit::Broken { reason } => Err(UnusableReason::Failed { message: reason }),
    }
}

fn check_version() -> Result<(), UnusableReason> {
    let kvm = kvm_ioctls::Kvm::new().map_err(|error| reason(KvmError::Open(error)))?;
    match kvm.get_api_version() {
        API_VERSION => Ok(()),
        found => Err(UnusableReason::ApiVersion { found }),
    }
}

/// `out MARK_PORT, al; mov ecx, ITERATIONS; again: dec ecx; jnz again; out MARK_PORT, al; hlt`.
fn code() -> Vec<u8> {
    let mut code = vec![0xe6, MARK_PORT, 0xb9];
    code.extend_from_slice(&ITERATIONS.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xfc, 0xe6, MARK_PORT, 0xf4]);
    code
}

/// The guest's one port.
struct Marks;

impl Ports for Marks {
    fn port_write(&self, port: u16, _data: &[u8]) -> bool {
        port == u16::from(MARK_PORT)
    }
    fn port_read(&self, _port: u16, _data: &mut [u8]) {}
    fn memory_write(&self, _address: u64, _data: &[u8]) {}
    fn memory_read(&self, _address: u64, _data: &mut [u8]) {}
}

fn reason(error: KvmError) -> UnusableReason {
    match error {
        KvmError::Lacks(capability) => UnusableReason::Lacks { capability: capability.to_owned() },
        other => internal(&other),
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> UnusableReason {
    UnusableReason::Failed { message: crate::engine::describe(error) }
}
