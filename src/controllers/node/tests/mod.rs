//! The node controller on an API server in memory, with the paused clock.
//!
//! [`world`] plays everybody else: the cluster controller, the engine, the kubelets.
#![allow(clippy::unwrap_used)]

mod admission;
mod arrival;
mod departure;
mod engine;
mod static_nodes;
mod strangers;
mod world;
