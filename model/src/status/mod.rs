//! The planner's report as status: what is written, and when it is worth a write.
//!
//! * [`pool`] is `Cluster.status`.
//! * [`queue`] is `Run.status.queue`.

pub mod pool;
pub mod queue;
