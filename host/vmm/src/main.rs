//! `capsid-vmm`: runs one virtual machine until it ends.

fn main() {}
