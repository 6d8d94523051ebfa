//! The controllers. They do not call each other; they meet in the API server.
//!
//! * [`node`]: machines of ClusterNodes: made, watched, removed; and their status.

pub mod node;
