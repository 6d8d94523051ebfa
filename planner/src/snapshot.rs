//! What was observed of one Cluster: the whole input of [`plan`](crate::plan()) besides the time.
//!
//! Filled by the cluster controller from its caches, or by `kubectl trainyard plan` from files. It may be stale: the plan
//! must be safe when it is, because every action carries what it relied on and is checked when it is carried out.

mod attempt;
mod policy;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::identity::{NodeName, RunId, Zone};

pub use attempt::{ActiveRun, DirectiveKind, DirectiveReason, EndedAttempt, GivenDirective, Progress};
pub use policy::{Deallocation, Policy, PoolHold, Stock};

/// One Cluster, its nodes and its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// `<namespace>/<name>`, for messages and as the seed of jitter.
    pub cluster: String,
    /// What the user asked of the pool.
    pub policy: Policy,
    /// Whether the Cluster is to stay.
    pub lifetime: Lifetime,
    /// Every ClusterNode of this Cluster (by UID), whatever its state.
    pub nodes: Vec<Node>,
    /// Accepted runs without a live attempt that want to run: not suspended, not cancelled, not being deleted.
    pub queued: Vec<QueuedRun>,
    /// Runs with an allocation whose attempt's pods are not known to be gone.
    pub active: Vec<ActiveRun>,
    /// Attempts that are over and of which no pod is left, of runs of any standing as far as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedAttempt>,
    /// Failure memory, from `Cluster.status.backoff`.
    pub backoff: Vec<Backoff>,
    /// The highest ordinal ever given to a node of this Cluster, from `Cluster.status.lastNodeOrdinal`.
    pub last_ordinal: i64,
    /// Nodes that somebody wants gone now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removal>,
    /// The zone all nodes are in, from `Cluster.status.zone`; only with [`Placement::SameZone`].
    pub zone: Option<Zone>,
}

/// A node that somebody wants gone now, whatever runs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// Which.
    pub node: NodeName,
    /// How it looks to the runs on it.
    pub kind: RemovalKind,
}

/// How a node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RemovalKind {
    /// Its runs are queued again at no cost.
    Remove,
    /// As if the provider took it back.
    RehearsePreemption,
}

/// Something that must be mended by a person before nodes can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrowthBlock {
    /// Stable code, such as `ProvisioningClassNotFound`.
    pub code: String,
    /// A sentence that says what to do.
    pub message: String,
}

/// How nodes of one Cluster are spread over zones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    /// The engine chooses.
    #[default]
    Any,
    /// All nodes in one zone: while the Cluster has no node, the first of these that is not backed off.
    SameZone(Vec<Zone>),
}

/// Whether the Cluster is to stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lifetime {
    /// It is wanted.
    #[default]
    Wanted,
    /// It is being deleted and holds our finalizer: planned as max 0, live runs fail.
    Deleting,
    /// A live read no longer finds it (finalizer removed by force): like `Deleting`, with no finalizer to release.
    Gone,
}

/// One ClusterNode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its place in the Cluster's numbering, from 1.
    pub ordinal: i64,
    /// When it was asked for (creation of the ClusterNode).
    pub requested_at: Timestamp,
    /// What is seen of its machine.
    pub machine: Machine,
    /// What went wrong with the machine, if something did; absorbed into [`Backoff`] before the node is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When it first became ready for runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready: Option<Timestamp>,
    /// Since when it has not been ready for runs, when it is [`Machine::NotReady`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_since: Option<Timestamp>,
    /// Its zone, once known or once asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// What it has for runs: measured once it is ready, expected before.
    pub capacity: Capacity,
    /// `spec.claims`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// `spec.idleSince`: when the last claim was dropped; absent until a first claim has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Timestamp>,
    /// `spec.retired`: nothing new is allocated here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
    /// Its machine was there before and stays: it is given back where others are destroyed.
    #[serde(default)]
    pub lent: bool,
    /// `spec.released`: its machine is being destroyed or given back; cannot be undone.
    #[serde(default)]
    pub released: bool,
    /// The ClusterNode was deleted by somebody (its finalizer keeps it).
    #[serde(default)]
    pub deleted: bool,
    /// What its release met when it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupied: Option<Occupied>,
}

impl Node {
    /// Its machine was there before and is lost: it is kept from use until it is back and empty, and when that is nobody knows.
    pub(crate) fn may_come_back(&self) -> bool {
        let cause = self.failure.as_ref().map(|failure| failure.cause);
        self.lent && self.machine == Machine::Failed && cause == Some(FailureCause::Lost)
    }
}

/// A pod that no claim explains is on a machine that was to be given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occupied {
    /// `<namespace>/<name>` of the pod.
    pub pod: String,
    /// When to look again.
    pub until: Timestamp,
}

/// What is seen of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Machine {
    /// Asked for or booting: it has never been ready for runs.
    Coming,
    /// Ready for runs.
    Ready,
    /// It was ready, and for the moment is not (cordoned, kubelet silent for less than the limit, ...).
    NotReady,
    /// It will not do (again): see [`Node::failure`]. It must be released.
    Failed,
    /// Nothing of it is left (or it never came to be).
    Gone,
}

/// Why a machine failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind, which decides the back-off.
    pub cause: FailureCause,
    /// When it was seen.
    pub at: Timestamp,
    /// The engine's own words.
    pub message: String,
}

/// Kinds of machine failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureCause {
    /// The provider has no such machine now.
    StockOut,
    /// The subscription may not have more of them.
    Quota,
    /// The engine refused the request for another reason, or its class is not ready.
    Rejected,
    /// The machine was not launched, registered or usable within its limit.
    Timeout,
    /// It came but cannot be used (set-up or accelerators).
    Unusable,
    /// The provider took it back (spot).
    Preempted,
    /// The Node vanished or stopped answering.
    Lost,
}

/// One run's hold on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Whose.
    pub run: RunId,
    /// For which attempt, from 1.
    pub attempt: i64,
    /// How much of the node.
    pub share: Capacity,
}

/// Marks a node that shall leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: RetireReason,
}

/// Why a node shall leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RetireReason {
    /// It was idle for longer than the timer.
    Idle,
    /// `maxNodes` was lowered below what there is.
    ScaleDown,
    /// The gang it was asked for gave up, or nobody needs it before it came.
    NotNeeded,
    /// The Cluster is being deleted.
    ClusterDeleted,
    /// Somebody deleted the ClusterNode.
    Deleted,
    /// Its Node vanished or stopped answering.
    Lost,
    /// The provider took it back.
    Preempted,
    /// It cannot be used.
    Unusable,
    /// It never came: the engine refused it or gave up.
    Failed,
    /// Somebody wanted it gone at once.
    Removed,
}

impl RetireReason {
    /// True when the node can never serve again, so that the mark is not undone.
    pub fn is_final(self) -> bool {
        match self {
            Self::Idle | Self::ScaleDown | Self::NotNeeded | Self::ClusterDeleted => false,
            Self::Deleted | Self::Lost | Self::Preempted | Self::Unusable | Self::Failed | Self::Removed => {
                true
            }
        }
    }
}

/// Order in the queue, before creation time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// After the others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// A run that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedRun {
    /// Which.
    pub id: RunId,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// When the Run was created; a requeued run keeps its place.
    pub created: Timestamp,
    /// All or none of these.
    pub node_count: i64,
    /// What it takes of each node.
    pub share: RequestedShare,
    /// The least of `maxWallClockTime` and what is left of `maxTotalTime` that its user wrote: only such a promise lets a
    /// run be backfilled into a reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_limit: Option<SignedDuration>,
    /// `gangTimeout`.
    pub gang_timeout: SignedDuration,
    /// When nodes were first asked for on its behalf, since its last hold; from `status.queue.gangSince`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_since: Option<Timestamp>,
    /// `status.queue.hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// When it has waited as long as its `queueDeadline` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_at: Option<Timestamp>,
    /// `status.queue.givenUp`: it is to end, and whoever ends it has not done so yet.
    #[serde(default)]
    pub given_up: bool,
    /// The number its next attempt gets: one more than its last allocation's, from 1.
    pub next_attempt: i64,
}

/// How much of each of its nodes a run asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestedShare {
    /// The whole node, whatever its capacity.
    WholeNode,
    /// At least this much.
    Part(Capacity),
}

/// A run set aside until a time because its machines cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Until when it is passed over.
    pub until: Timestamp,
    /// How many times in a row it has been held; decides the next length.
    pub count: i64,
    /// Why.
    pub reason: HoldReason,
}

/// Why a run is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HoldReason {
    /// Its gang was not complete `gangTimeout` after the first request.
    CapacityHold,
}

/// Memory of refusals of one cause in one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// The cause.
    pub cause: FailureCause,
    /// The zone, where one was asked for or told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Failures in a row.
    pub count: i64,
    /// No new node there before this.
    pub until: Timestamp,
    /// The engine's last words.
    #[serde(default)]
    pub message: String,
}
