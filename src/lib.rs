//! The trainyard operator: elastic pools of training machines, their queue and their runs, as Kubernetes objects.
//!
//! * [`clock`]: the only source of time.
//! * [`tasks`]: the long-running tasks, which live and die together.
//! * [`kubernetes`]: how requests, watches, Events, the work queue and the lease work; no rule of trainyard.
//! * [`resources`]: one builder for each kind of object a Run has; pure.
//! * [`telemetry`]: logs, metrics, health.

pub mod clock;
pub mod kubernetes;
pub mod resources;
pub mod tasks;
pub mod telemetry;
