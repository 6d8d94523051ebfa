//! What `make bench` measures: runs from submission to running on machines that are there, and a run that loses one.
//!
//! * [`pool`]: a Cluster of warm machines, filled and emptied.
//! * [`submission`]: from the first create to the last run that runs.
//! * [`loss`]: from a deleted Node to the run that is whole again.
//! * [`disaster`]: the same for many machines at once, under gangs.
//! * [`flow`]: many runs through one Cluster, from nothing and back.
//! * [`queue`]: how fast runs are started, by how many wait.
//! * [`meter`]: what the processes used, and what else the machine was busy with.
//! * [`requests`]: what the API server was asked meanwhile.
//! * [`mod@print`]: all that, for people.
//!
//! Figures are printed and never judged: a machine that is busy with other work makes every time longer.

pub mod disaster;
pub mod flow;
pub mod loss;
pub mod meter;
pub mod pool;
pub mod print;
pub mod queue;
pub mod requests;
pub mod submission;
