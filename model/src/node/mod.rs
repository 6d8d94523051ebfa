//! The state of a ClusterNode, from what is seen of its machine.
//!
//! In: the ClusterNode as stored, and facts that an engine and the API server told ([`seen`]). Out: the whole status
//! ([`assess()`]), and when to look again. Called by the node controller, which reads, acts and writes; nothing here does.
//!
//! * [`seen`]: machines and Nodes, reduced to what is read of them.
//! * [`usable`]: whether run pods could work on a Node, and what is in the way.
//! * [`found`]: whether a Node that is there already could be taken, and what is in the way.
//! * [`daemons`]: what DaemonSets take of a Node, and which of them our taint keeps off.
//! * [`lost`]: whether what runs on a machine counts as gone.
//! * [`pods`]: what is asked of a pod on a machine by several of these, and by the controllers.
//! * [`strangers`]: what other pods take of a Node that are not a run's.
//! * [`limits`]: every time limit, with its argument.
//! * [`assess`](mod@assess): the status.

pub mod assess;
pub mod daemons;
pub mod found;
pub mod limits;
pub mod lost;
pub mod pods;
pub mod seen;
pub mod strangers;
pub mod usable;

pub use assess::{Answer, Assessment, Presence, Situation, assess};
