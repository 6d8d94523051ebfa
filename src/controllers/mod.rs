//! The control loops. Each meets the others only in the API server: none imports another.
//!
//! * [`cluster`]: decides (through the planner) what nodes there are and which run gets which.

pub mod cluster;
