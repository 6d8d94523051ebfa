//! The planner's report as status: what is written, and when it is worth a write.
//!
//! * [`pool`] makes `Cluster.status`.
//! * [`queue`] makes `Run.status.queue`.

pub mod pool;
pub mod queue;
