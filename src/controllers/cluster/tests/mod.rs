//! The cluster controller on an API server in memory, with the paused clock.
//!
//! [`world`] plays everybody else: users, machines, the run controller. [`oracle`] looks at every single write
//! that was made and says whether the protocol was kept.

mod accidents;
mod crashes;
mod leaders;
mod oracle;
mod refusals;
mod stock;
mod stories;
mod world;
