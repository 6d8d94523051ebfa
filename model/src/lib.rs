//! From the wire to what cannot be wrong, and back. Pure: no client, no clock, nothing asynchronous.
//!
//! * [`node`]: the state of a ClusterNode, from what is seen of its machine.

pub mod node;
