//! From the wire to what cannot be wrong, and back. Pure: no client, no clock, nothing asynchronous.
//!
//! * [`catalogue`]: which VmSize and ProvisioningClass a Cluster means, and what a node of it is made of.
//! * [`node`]: the state of a ClusterNode, from what is seen of its machine.
//! * [`run`]: a Run that cannot be wrong: roles, layout, wiring, spec hash.
//! * [`snapshot`]: wire objects reduced to what decisions read, and assembled into the planner's snapshot.
//! * [`status`]: the planner's report as status.

pub mod catalogue;
pub mod node;
pub mod run;
pub mod snapshot;
pub mod status;
