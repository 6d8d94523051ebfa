//! Attempts of runs: those that live, those that are over, and what was said to them.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Priority;
use crate::identity::{NodeName, RunId};

/// A run with a live attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveRun {
    /// Which.
    pub id: RunId,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// When the Run was created.
    pub created: Timestamp,
    /// Number of the allocated attempt.
    pub attempt: i64,
    /// The allocated nodes, in the order of ranks.
    pub nodes: Vec<NodeName>,
    /// How far the attempt got.
    pub progress: Progress,
    /// The directive already given to this attempt; final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<GivenDirective>,
    /// When the attempt's time limit began to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// The least of `maxWallClockTime` and what `maxTotalTime` left for this attempt that its user wrote, else the default:
    /// the attempt ends at the latest this long after `started`.
    pub limit: SignedDuration,
    /// Whether the user wrote that limit. An end known only from the default is not shown as an estimate.
    #[serde(default)]
    pub limit_by_user: bool,
    /// Whether it has its nodes for itself, also what is added to their capacity while it runs.
    #[serde(default)]
    pub whole: bool,
}

/// An attempt that is over and of which no pod is left: its claims may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedAttempt {
    /// Whose.
    pub run: RunId,
    /// Its number.
    pub attempt: i64,
}

/// How far an attempt got. In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// Allocated; the run controller has not answered or has not launched.
    Allocated,
    /// `attempts[k].launched`: gates may be removed.
    Launched,
    /// Its end is recorded; its pods may still be there.
    Ended,
}

/// A directive as it stands in `status.allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GivenDirective {
    /// What to do with the attempt.
    pub kind: DirectiveKind,
    /// Why.
    pub reason: DirectiveReason,
}

/// What the run controller shall do with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DirectiveKind {
    /// End it without a budget; the run is queued again.
    Stop,
    /// End it as an infrastructure failure; the run is queued again while its budget lasts.
    Requeue,
    /// End it, and the run with it.
    Fail,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DirectiveReason {
    /// Not launched, and its claims are not on every node.
    Withdrawn,
    /// One of its nodes was lost.
    NodeLost,
    /// One of its nodes was taken back by the provider.
    NodePreempted,
    /// One of its nodes cannot be used any more.
    NodeUnusable,
    /// The Cluster is being deleted.
    ClusterDeleted,
    /// Somebody wanted a node of it gone at once.
    NodeRemoved,
    /// `maxNodes` was lowered, and its nodes are above it.
    MaxNodesLowered,
}
