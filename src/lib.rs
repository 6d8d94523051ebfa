//! The trainyard operator: elastic pools of training machines, their queue and their runs, as Kubernetes objects.
//!
//! * [`controllers`]: the control loops.
//! * [`operator`]: starts everything below and stops it together.
//! * [`settings`]: flags and environment, the only place that reads them.
//! * [`clock`]: the only source of time.
//! * [`provisioner`]: the engines that make machines.
//! * [`occupancy`]: whether a pod of a run is still on a machine that is to be given back.
//! * [`tasks`]: the long-running tasks, which live and die together.
//! * [`kubernetes`]: how requests, watches, Events, the work queue and the lease work; no rule of trainyard.
//! * [`resources`]: one builder for each kind of object a Run has; pure.
//! * [`telemetry`]: logs, metrics, health.

pub mod clock;
pub mod controllers;
pub mod kubernetes;
pub mod occupancy;
pub mod operator;
pub mod provisioner;
pub mod resources;
pub mod settings;
pub mod tasks;
pub mod telemetry;
