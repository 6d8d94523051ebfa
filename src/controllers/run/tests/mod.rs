//! The run controller on an API server in memory, with the paused clock.
//!
//! [`world`] plays everybody else: users, the cluster controller, the scheduler, the kubelets.

mod crashes;
mod endings;
mod limits;
mod pod_template;
mod protocol;
mod refusals;
mod remains;
mod roles;
mod stories;
mod tampering;
mod world;
