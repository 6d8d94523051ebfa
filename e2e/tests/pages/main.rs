//! Every command that the README and the pages show, run as it stands there on a fresh control plane; and every object of
//! theirs, as the API server takes it. The page on `why` is held by the plugin's own tests, which need no API server.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]

#[path = "../../../api/tests/documents/mod.rs"]
mod documents;
mod others;
mod readme;
mod shell;
mod static_nodes;
