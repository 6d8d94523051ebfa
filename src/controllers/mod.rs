//! The control loops. Each meets the others only in the API server: none imports another.
//!
//! * [`cluster`]: decides (through the planner) what nodes there are and which run gets which.
//! * [`node`]: machines of ClusterNodes: made, watched, removed; and their status.
//! * [`experiment`]: Experiments made on first use, and their counts.
//! * [`run`]: attempts of Runs: pods, exit codes, phases.
//! * [`vm_size`]: which sizes claim one name.

pub mod cluster;
pub mod experiment;
pub mod node;
pub mod run;
pub mod vm_size;
