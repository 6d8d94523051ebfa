//! The stories of the product on a real control plane, with the real Karpenter, each a test that reads as one.
//!
//! They share a control plane and an operator, and each has a namespace; the few that stop the operator have a control
//! plane of their own, one at a time. They mostly wait: `--test-threads=8` tells them in a quarter of the time.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

mod capacity;
mod deletion;
mod elasticity;
mod events;
mod explained;
mod failures;
mod hostile;
mod lifetime;
mod operators;
mod pod_template;
mod pool;
mod queue;
mod rest;
mod roles;
mod sharing;
mod static_nodes;
mod tenancy;
mod wrong;
