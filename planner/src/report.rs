//! What everything waits for: the second half of a plan's answer. Status, Events and `kubectl trainyard why` are written
//! from it, so a wait without a reason cannot happen.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{NodeName, RunId, Zone};
use crate::snapshot::{Backoff, Hold};
use crate::wait::Wait;

/// The state of one Cluster after the plan's actions, as far as they can be foreseen.
#[must_use = "an unread report is not actionable"]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The pool.
    pub pool: PoolReport,
    /// Each queued run that is still waiting after this plan, in queue order.
    pub runs: Vec<RunReport>,
    /// Each node, in order of ordinal.
    pub nodes: Vec<NodeReport>,
}

/// The pool as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolReport {
    /// Machines that exist or are on their way: neither failed before they came, nor gone.
    pub current_nodes: i64,
    /// How many there shall be once everything planned has happened.
    pub target_nodes: i64,
    /// Nodes by state.
    pub counts: NodeCounts,
    /// True while nodes are coming or leaving.
    pub resizing: bool,
    /// Runs waiting.
    pub queued: i64,
    /// Runs with a live attempt.
    pub active: i64,
    /// Creation time of the run that has waited longest.
    pub oldest_queued: Option<Timestamp>,
    /// When the next idle node will leave if nothing changes.
    pub next_scale_down: Option<Timestamp>,
    /// Failure memory after this plan; to be stored.
    pub backoff: Vec<Backoff>,
    /// Highest ordinal after this plan; to be stored before the nodes are created.
    pub last_ordinal: i64,
    /// The zone after this plan; to be stored before the nodes are created.
    pub zone: Option<Zone>,
    /// The highest ordinal of the initial nodes, once they are there or on their way; to be stored, so that they are asked for
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_last_ordinal: Option<i64>,
    /// What keeps nodes from leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_up: Option<HeldUp>,
    /// That fewer machines are to be had than are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Shortage>,
    /// Is it fine, and if not, why.
    pub health: PoolHealth,
    /// `health` as a sentence.
    pub message: String,
}

/// Machines that are wanted and cannot be had, as the engine has counted them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shortage {
    /// How many, for the first run that lacks them, or for the minimum.
    pub nodes: i64,
    /// What the engine says of those it has.
    pub message: String,
}

/// Nodes that shall leave and have a pod on them that no claim explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldUp {
    /// How many.
    pub nodes: i64,
    /// The first of them, its pod, and what to do.
    pub message: String,
}

/// AmlCompute's `nodeStateCounts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// On their way.
    pub preparing: i64,
    /// Ready, without a claim.
    pub idle: i64,
    /// With a claim.
    pub running: i64,
    /// Being destroyed or given back.
    pub leaving: i64,
    /// Not fit for use.
    pub unusable: i64,
    /// Taken back by the provider.
    pub preempted: i64,
}

/// Is the pool as it was asked to be?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PoolHealth {
    /// As asked: nothing comes or goes, or only because runs come and go.
    Steady,
    /// Nodes are coming or leaving.
    Resizing,
    /// Nodes are wanted, and are not to be had now: refusals are waited out, or no machine is free.
    BackingOff,
    /// Nodes are wanted, and a person must act first.
    Blocked,
    /// It is being deleted.
    Deleting,
}

/// One waiting run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Which.
    pub run: RunId,
    /// Exact place in the queue, from 1. Rounding for status is the writer's business.
    pub position: i64,
    /// What it waits for, with the numbers and names of the sentence.
    pub wait: Wait,
    /// When it can start at the latest, from limits that users wrote; absent rather than guessed.
    pub estimated_start: Option<Timestamp>,
    /// To be stored: since when nodes have been asked for on its behalf.
    pub gang_since: Option<Timestamp>,
    /// To be stored: its hold.
    pub hold: Option<Hold>,
}

impl RunReport {
    /// What it waits for, as a stable code.
    pub fn reason(&self) -> WaitReason {
        self.wait.reason()
    }

    /// That, as a sentence with numbers and names and what to do where a person can. Made when asked for: a queue of
    /// 50,000 is planned many times for each sentence that is written.
    pub fn message(&self) -> String {
        self.wait.to_string()
    }
}

/// What a queued run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WaitReason {
    /// It was allocated by this very plan or the write is under way.
    Starting,
    /// Its machines have been asked for or are booting.
    NodesComing,
    /// Machines must be asked for, and refusals are being waited out.
    CapacityBackoff,
    /// It gave its machines back after `gangTimeout`, and is passed over until a time.
    CapacityHold,
    /// All nodes it could have are taken by running runs.
    NodesBusy,
    /// A run before it has nodes reserved that this one would delay.
    BehindReservation,
    /// A run before it, of the same or higher priority, is served first.
    BehindInQueue,
    /// It asks for more nodes than `maxNodes`.
    ExceedsMaxNodes,
    /// It asks for more per node than a node has.
    ExceedsNodeSize,
    /// A person must mend something of the Cluster (class, size) first.
    GrowthBlocked,
    /// The engine has not so many machines: they are used elsewhere, or something is the matter with them.
    NoFreeMachines,
    /// Nodes are leaving, unusable or not ready, and count against `maxNodes` until they are gone.
    NodesLeaving,
    /// Its user holds the Cluster.
    ClusterOnHold,
    /// The Cluster is being deleted.
    ClusterDeleting,
    /// It has waited longer than its `queueDeadline`, and ends as Failed.
    QueueDeadline,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Which.
    pub node: NodeName,
    /// What it waits for.
    pub reason: NodeReason,
    /// That, as a sentence.
    pub message: String,
}

/// What a node is there for, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeReason {
    /// Its machine is on its way.
    Coming,
    /// It works.
    Working,
    /// Idle, until its timer ends.
    IdleTimer,
    /// Idle, and kept because of `minNodes`.
    KeptForMinimum,
    /// Idle, and kept because a waiting run could start on it.
    KeptForQueue,
    /// Idle, and kept because the Cluster is frozen.
    Frozen,
    /// For the moment not ready for runs.
    NotReady,
    /// Shall leave once its claims have ended.
    Draining,
    /// Its machine is being destroyed, or given back.
    Leaving,
    /// Its machine was lent and is lost: it is given back when it is ready again and empty.
    Quarantined,
    /// Its machine is gone; the object goes next.
    Gone,
}
