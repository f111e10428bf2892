//! The `aspis` binary.

fn main() {}
