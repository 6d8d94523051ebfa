//! What the chart grants is what is used, as the API server's audit log has it: for the operator and for people.

#![allow(
    clippy::disallowed_methods,
    reason = "this talks to real processes in real time; the clock rule is for the operator"
)]
#![allow(clippy::unwrap_used, missing_docs)]

mod operator;
mod people;
