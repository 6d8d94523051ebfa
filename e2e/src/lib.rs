//! Tests against a real API server, and the local control plane they run on.
//!
//! * [`controlplane`]: the control plane itself.
//! * [`installation`]: trainyard on it, as its users install it.
//! * [`demo`]: what `make demo` shows.
//! * [`bench`]: what `make bench` measures.

pub mod bench;
pub mod controlplane;
pub mod demo;
pub mod installation;
pub mod stories;
