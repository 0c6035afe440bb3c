//! herald-operator: flags to wiring.
fn main() {}
