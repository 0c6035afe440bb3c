//! The `herald-lab` command.
fn main() {}
