//! herald-speaker: flags to wiring.
fn main() {}
