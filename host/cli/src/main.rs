//! `capsid`.

fn main() {}
