//! Validated forms of the wire types (parse, do not validate), and their conversion to planner snapshots. Pure.
//!
//! * [`run`]: a Run that cannot be wrong: roles, layout, wiring, spec hash.

pub mod run;
