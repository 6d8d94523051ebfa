//! An API server in memory, for tests of code that talks to Kubernetes.
//!
//! [`FakeServer`] answers requests as kube-apiserver does, without schemas: any group, version and plural works, in a
//! namespace or not. It keeps objects, their history and who owns which field, so that code under test can list, watch,
//! create, apply, patch and delete, and meets the same refusals: stale versions, other UIDs, foreign owners of a field,
//! finalizers. [`FakeServer::client`] is given to the code under test, nothing listens on a port.
//!
//! What makes it worth having beside a real server are [`Fault`]s and [`Gate`]s: the nth write fails before or after it
//! acted, a request is refused, hangs, or waits until the test lets it go on.
//!
//! Assumptions and limits:
//! * no admission, no defaults, no validation against a schema, one version per kind;
//! * which lists merge by key is told by name ([`FakeServer::merge_list_by`]); the usual ones are known;
//! * kinds whose update needs no resourceVersion are those of the core group;
//! * a page of a list comes from the state at the first page, as on the real server;
//! * what it answers is compared with a real server, line by line, by `tests/conformance.rs`;
//! * time comes from the function given to [`FakeServer::with_clock`], by default from tokio's clock.

mod access;
mod delete;
mod fault;
mod ownership;
mod patch;
mod path;
mod read;
mod refusal;
mod select;
mod server;
mod service;
mod store;
mod value;
mod write;

pub use fault::{Fault, Gate, Matching, Record, Verb, When};
pub use server::FakeServer;
pub use service::FakeService;
