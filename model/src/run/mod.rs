//! A Run that cannot be wrong: what the wire type says, checked once and turned into the terms the rest works with.
//!
//! In: an api [`Run`](trainyard_api::Run). Out: a [`ValidRun`], or an [`InvalidRun`] whose text names the object, the
//! field, the value, what was expected and what to do. Called by the run controller, by the cluster controller for its
//! snapshot, and by `kubectl trainyard`. Pure: no client, no clock.
//!
//! | module | has |
//! |---|---|
//! | [`valid`] | the parse, and the parsed form |
//! | [`processes`] | what each role runs, and how many of it there are |
//! | [`acceptance`] | whether a checked Run may be queued, as far as it can be told without an API server |
//! | [`portion`] | how much of each machine it takes, when not the whole |
//! | [`layout`] | which process sits on which node, and how a node is shared among them |
//! | [`wiring`] | the environment variables through which processes find each other, byte for byte |
//! | [`pod_template`] | what contradicts itself or us in the additions to pods, and what sidecars take |
//! | [`pod_name`] | what the name of a pod says |
//! | [`spec_hash`] | the hash that catches a spec changed behind the schema's back |
//! | [`error`] | everything that can be wrong with a Run |

pub mod acceptance;
pub mod error;
#[cfg(test)]
pub(crate) mod fixture;
pub mod layout;
pub mod limits;
pub mod pod_name;
pub mod pod_template;
pub mod portion;
pub mod processes;
pub mod spec_hash;
pub mod valid;
pub mod wiring;

pub use acceptance::is_accepted;
pub use error::InvalidRun;
pub use layout::{Layout, Process, ProcessShare};
pub use pod_name::PodName;
pub use portion::Portion;
pub use processes::{Role, Wiring};
pub use valid::{Budgets, RunIdentity, ValidRun};
