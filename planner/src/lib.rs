//! What shall be done with a pool of machines and the queue of runs that want them: a pure function.
//!
//! In: a [`Snapshot`] of one Cluster and the time. Out: a [`Plan`]: actions to carry out, a report that gives every wait
//! its reason, and the time to ask again. No Kubernetes client, no async, no clock, no randomness, no hash order: the same
//! input gives the same plan, in the operator, in `kubectl trainyard plan`, in a simulation.

pub mod action;
mod backfill;
pub mod capacity;
pub mod check;
mod clock;
mod deadline;
mod deallocate;
mod decisions;
pub mod effect;
mod explain;
mod gang;
mod growth;
pub mod identity;
mod placement;
mod policy;
mod queue;
mod refusals;
pub mod report;
mod shrink;
pub mod snapshot;
mod supply;
mod text;
mod upkeep;
pub mod wait;
mod world;

pub use action::{Action, DropBasis, Plan};
pub use capacity::Capacity;
pub use identity::{NodeName, RunId, Zone};
pub use policy::plan;
pub use report::{
    HeldUp, NodeCounts, NodeReason, NodeReport, PoolHealth, PoolReport, Report, RunReport, Shortage,
    WaitReason,
};
pub use snapshot::{
    ActiveRun, Backoff, Claim, Deallocation, DirectiveKind, DirectiveReason, EndedAttempt, Failure,
    FailureCause, GivenDirective, GrowthBlock, Hold, HoldReason, Lifetime, Machine, Node, Occupied,
    Placement, Policy, PoolHold, Priority, Progress, QueuedRun, Removal, RemovalKind, RequestedShare,
    RetireReason, Retired, Snapshot, Stock,
};
pub use wait::{Machines, Wait};
