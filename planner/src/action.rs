//! What shall be done. Each action is small, idempotent and complete: whoever carries it out has no choice left, and
//! aborts (never adapts) when what the action relied on is no longer so.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::identity::{NodeName, RunId, Zone};
use crate::report::Report;
use crate::snapshot::{DirectiveKind, DirectiveReason, Hold, RetireReason};

/// The answer of [`plan`](crate::plan()).
#[must_use = "a plan that nobody carries out changes nothing"]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// To be done first, in this order.
    pub actions: Vec<Action>,
    /// To be written to status after `actions`, and before `afterwards`.
    pub report: Report,
    /// To be done once the report is stored, in this order: new nodes (their ordinals are reserved in status) and
    /// farewells (their failures are remembered in status).
    pub afterwards: Vec<Action>,
    /// The first instant at which the same snapshot gives other actions; absent when only a change of the snapshot can.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Both lists of actions, in order.
    pub fn all_actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().chain(&self.afterwards)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// Create the ClusterNode of this ordinal. (`afterwards`)
    RequestNode {
        /// Larger than every ordinal before.
        ordinal: i64,
        /// The zone to require, with `Placement::SameZone`.
        zone: Option<Zone>,
    },
    /// Claim the nodes, then write the run's allocation.
    Allocate {
        /// Which run.
        run: RunId,
        /// Number of the attempt.
        attempt: i64,
        /// In the order of ranks; first nodes carry chief and parameter servers.
        nodes: Vec<NodeName>,
        /// The share of each node, same order.
        shares: Vec<Capacity>,
    },
    /// Remove one claim from one node, if `basis` still holds on a fresh read. Sets `idleSince` when it was the last.
    DropClaim {
        /// Where.
        node: NodeName,
        /// Whose.
        run: RunId,
        /// Which attempt's.
        attempt: i64,
        /// What must hold on a fresh read.
        basis: DropBasis,
    },
    /// Mark a node as leaving: nothing new is allocated there.
    Retire {
        /// Which.
        node: NodeName,
        /// Why.
        reason: RetireReason,
    },
    /// Take the mark back.
    Unretire {
        /// Which.
        node: NodeName,
    },
    /// Let the node's machine be destroyed, or given back: only when a fresh read shows no claim and a live list no pod of ours.
    Release {
        /// Which.
        node: NodeName,
    },
    /// Remove our finalizer (and the object): its machine is gone. (`afterwards`)
    Forget {
        /// Which.
        node: NodeName,
    },
    /// Tell the run controller what to do with an attempt.
    Directive {
        /// Which run.
        run: RunId,
        /// Which attempt.
        attempt: i64,
        /// What.
        kind: DirectiveKind,
        /// Why.
        reason: DirectiveReason,
        /// The node that is the cause, if one is.
        culprit: Option<NodeName>,
    },
    /// Set a run aside until a time. Not terminal.
    Hold {
        /// Which run.
        run: RunId,
        /// For how long, and the how manieth time.
        hold: Hold,
    },
    /// Have a run that waits end as Failed: it has waited as long as its `queueDeadline` allows.
    GiveUp {
        /// Which run.
        run: RunId,
    },
    /// Remove our finalizer from the Cluster: nothing of it is left. (`afterwards`)
    ReleaseFinalizer,
}

/// Why a claim may go; checked again on fresh reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DropBasis {
    /// The run records `podsGone` for that attempt.
    PodsGone,
    /// The run has no allocation of that attempt naming that node, and no newer claim depends on it.
    NotAllocated,
    /// No run of that UID exists, and no live pod of it either.
    RunGone,
}
