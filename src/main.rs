//! The trainyard operator.

fn main() {}
