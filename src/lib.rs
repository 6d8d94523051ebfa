//! The trainyard operator: elastic pools of training machines, their queue and their runs, as Kubernetes objects.
//!
//! * [`controllers`]: the control loops.
//! * [`clock`]: the only source of time.
//! * [`tasks`]: the long-running tasks, which live and die together.
//! * [`kubernetes`]: how requests, watches, Events, the work queue and the lease work; no rule of trainyard.
//! * [`telemetry`]: logs, metrics, health.

pub mod clock;
pub mod controllers;
pub mod kubernetes;
pub mod tasks;
pub mod telemetry;
