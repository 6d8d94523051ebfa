//! The trainyard operator: elastic pools of training machines, their queue and their runs, as Kubernetes objects.
//!
//! * [`clock`]: the only source of time.
//! * [`provisioner`]: the engines that make machines.
//! * [`tasks`]: the long-running tasks, which live and die together.
//! * [`controllers`]: what is decided and done, one folder per kind.
//! * [`kubernetes`]: how requests, watches, Events, the work queue and the lease work; no rule of trainyard.
//! * [`telemetry`]: logs, metrics, health.

pub mod clock;
pub mod controllers;
pub mod kubernetes;
pub mod provisioner;
pub mod tasks;
pub mod telemetry;
