//! What the operator tells about itself: logs, metrics, health.
//!
//! These modules carry no state of the system and decide nothing. Nothing here may fail a reconcile.
//!
//! * [`logging`]: one subscriber, text or JSON.
//! * [`metrics`]: every metric family there is, in a registry that is owned and passed, never global.
//! * [`server`]: `/livez`, `/readyz`, `/metrics`.
//! * [`readiness`]: the gates behind `/readyz`.
//! * [`shutdown`]: one token, cancelled by SIGTERM, SIGINT or a fault.

pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod server;
pub mod shutdown;
