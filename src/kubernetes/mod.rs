//! How the operator talks to the API server, and nothing about what it says.
//!
//! Controllers go through these modules for every request, watch and wake-up. They know names of types and URLs, but
//! no rule of trainyard: no phase, no policy, no decision.
//!
//! * [`client`]: the one way to build a client: time limits, bounded concurrency, no hidden retries, metrics.
//! * [`error`]: what went wrong, and by [`error::ErrorKind`] what a controller should do about it.
//! * [`read`]: live reads, past every cache.
//! * [`apply`]: every way to write, each with the precondition it was decided on.
//! * [`workqueue`]: runs a reconcile per key, never twice at once for one key.
//! * [`backoff`]: how long a failing object must wait.
//! * [`events`]: Events for people.
//! * [`leader`]: the lease that lets one process act.
//! * [`watch`], [`cache`], [`key`], [`version`]: caches that follow the API server and tell who changed.

pub mod apply;
pub mod backoff;
pub mod cache;
pub mod client;
pub mod error;
pub mod events;
pub mod key;
pub mod leader;
pub mod read;
pub mod version;
pub mod watch;
pub mod workqueue;

pub use error::{Error, ErrorKind};
