//! Tests against a real API server, and the local control plane they run on.
//!
//! * [`controlplane`]: the control plane itself.
//! * [`installation`]: trainyard on it, as its users install it.
//! * [`rights`]: what the chart grants, and what of it was used.
//! * [`demo`]: what `make demo` shows.
//! * [`mod@bench`]: what `make bench` measures.
//! * [`tally`]: what a run of `cargo test` has really tested.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

pub mod bench;
pub mod controlplane;
pub mod demo;
pub mod installation;
pub mod rights;
pub mod stories;
pub mod tally;
