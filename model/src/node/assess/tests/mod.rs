//! What is said of a node, from looks at it and its machine at given times.
#![allow(clippy::unwrap_used)]

mod arrival;
mod departure;
mod story;
