//! herald-fakecloud: the server behind providers/fake.
fn main() {}
