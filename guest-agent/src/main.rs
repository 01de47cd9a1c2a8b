//! `capsid-agent`.

fn main() {}
