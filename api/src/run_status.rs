//! What trainyard answers about a Run.
//!
//! Three writers, each with its own field manager: the cluster controller writes `allocation` and `queue`, the run
//! controller all the rest. The enums a reader must survive end in `Unknown`, written by a newer version.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::conditions::Condition;
use crate::distribution::RoleName;
use crate::schema;

/// Most attempts kept in status. One whose pods are not known to be gone is always among them.
pub const MAX_ATTEMPTS_KEPT: usize = 10;

closed_set! {
    /// Where a Run is. A terminal phase is written only when the last attempt's pods are gone, and is a one-way door.
    #[derive(Default)]
    RunPhase {
        /// No live attempt; waiting for machines included.
        #[default]
        Queued,
        /// Nodes allocated, not all main containers running.
        Preparing,
        /// All main containers running, or some and the rest done.
        Running,
        /// Result recorded, pods stopping.
        Finalizing,
        /// Suspended by its user.
        Suspended,
        /// Cancelled by its user, pods stopping.
        CancelRequested,
        /// Succeeded. Terminal.
        Completed,
        /// Failed for good. Terminal.
        Failed,
        /// Cancelled. Terminal.
        Canceled,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

impl RunPhase {
    /// Whether nothing will happen to the Run any more.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Canceled => true,
            Self::Queued
            | Self::Preparing
            | Self::Running
            | Self::Finalizing
            | Self::Suspended
            | Self::CancelRequested
            | Self::Unknown => false,
        }
    }
}

closed_set! {
    /// Why a Run is in its phase.
    RunReason {
        /// Its pods have not been tried by dry-run yet.
        NotChecked,
        /// The API server would not take its pods; the message says why. Tried again every 10 minutes.
        NotAccepted,
        /// Its spec is not the one it was accepted with.
        SpecChanged,
        /// No Cluster of that name is in its namespace.
        ClusterNotFound,
        /// The distribution does not divide the accelerators of a node, or asks for more than the node has.
        DoesNotFit,
        /// Waiting in the queue; see `queue.reason`.
        Waiting,
        /// To be tried again after a failure of its own.
        RetryUser,
        /// To be tried again after a failure of a machine.
        RetryInfrastructure,
        /// To be started again after being stopped by no failure.
        Requeued,
        /// Nodes allocated; its pods are being made.
        CreatingPods,
        /// Its pods wait for their containers: images, volumes.
        StartingContainers,
        /// Its containers run.
        ContainersRunning,
        /// Its pods are being stopped.
        StoppingPods,
        /// Suspended by its user.
        Suspended,
        /// Cancelled by its user.
        Canceled,
        /// It has succeeded.
        Succeeded,
        /// A process of it failed, and `retries.user` is used up.
        UserCode,
        /// Its set-up failed, and `retries.user` is used up.
        Setup,
        /// A machine failed, and `retries.infrastructure` is used up.
        Infrastructure,
        /// An attempt took longer than `maxWallClockTime`.
        WallClock,
        /// Its Cluster was deleted while it ran.
        ClusterDeleted,
        /// It is being deleted.
        Deleting,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// What trainyard answers about a Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = end_is_a_one_way_door(), validation = cancel_is_latched())]
pub struct RunStatus {
    /// Where it is; absent until it is first seen, which means Queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RunPhase>,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RunReason>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub message: Option<String>,
    /// The nodes of the latest attempt. Written by the cluster controller; overwritten by the next, never cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Its place in the queue. Written by the cluster controller; absent while it does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<RunQueue>,
    /// The last 10 attempts, and any whose pods are not known to be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"])
    )]
    pub attempts: Vec<Attempt>,
    /// Attempts so far, and what of the two budgets is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<AttemptTotals>,
    /// Processes of the latest attempt by role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub roles: Vec<RoleStatus>,
    /// Exit code that decided the Run; absent while none did, or when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2_147_483_648_i64, max = 2_147_483_647))]
    pub exit_code: Option<i32>,
    /// When its latest attempt's containers first ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it reached a terminal phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// When `spec.cancel` was first seen true. Never unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_time: Option<Time>,
    /// `v1:` and a hash of what may not change, taken when the Run was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub spec_hash: Option<String>,
    /// `Accepted`, `Allocated`, `Started`, `Completed`, `Failed`, `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 12),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub observed_generation: Option<i64>,
}

/// The nodes of one attempt: the commit of the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = allocation_is_a_commit(), validation = directive_is_final())]
pub struct Allocation {
    /// Number of the attempt, from 1; grows by one with every allocation, started or not.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub attempt: i32,
    /// Its nodes, in the order in which processes are placed on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub nodes: Vec<AllocatedNode>,
    /// What to do with the attempt before its own end. Final for the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<Directive>,
}

/// One node of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedNode {
    /// Name of the ClusterNode.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Name of its Node: pods are bound to it.
    #[schemars(schema_with = "schema::object_name")]
    pub node_name: String,
    /// UID of its Node: a Node of that name and another UID is another machine.
    #[serde(rename = "nodeUID")]
    #[schemars(schema_with = "schema::uid")]
    pub node_uid: String,
}

closed_set! {
    /// What the cluster controller tells the run controller to do with an attempt.
    DirectiveKind {
        /// End it, to be queued again; what it costs follows from the reason.
        Stop,
        /// End it, to be queued again at no cost.
        Requeue,
        /// End it, and the Run as Failed.
        Fail,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Why.
    DirectiveReason {
        /// The allocation was not launched and its claims are not on every node.
        Withdrawn,
        /// A node of the attempt is gone, or not Ready for too long.
        NodeLost,
        /// The cloud takes a node of the attempt back.
        NodePreempted,
        /// A node of the attempt cannot be used.
        NodeUnusable,
        /// Somebody asked for a node of the attempt to be removed now.
        NodeRemoved,
        /// The Cluster is being deleted.
        ClusterDeleted,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// An order about one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Directive {
    /// What to do.
    pub kind: DirectiveKind,
    /// Why.
    pub reason: DirectiveReason,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::message")]
    pub message: String,
}

closed_set! {
    /// What a queued Run waits for.
    QueueReason {
        /// Machines asked for on its behalf are on their way.
        NodesPreparing,
        /// Nodes that other runs use.
        NodesBusy,
        /// Nodes that leave or are not fit for use, and count against `maxNodes` until they are gone.
        NodesLeaving,
        /// Runs before it in the queue.
        BehindOthers,
        /// Nodes it could use are reserved for a run before it.
        Reserved,
        /// The Cluster may not have that many nodes: raise `maxNodes`.
        ExceedsMaxNodes,
        /// The Cluster's size has not what a node of it needs.
        ExceedsNode,
        /// Its nodes did not come in time; it is held for a while.
        CapacityHold,
        /// Machines were refused (see the Cluster's `errors`) and are asked for again later.
        CapacityBackoff,
        /// The Cluster cannot get machines until somebody changes something; see its `errors`.
        ClusterStalled,
        /// The Cluster is being deleted.
        ClusterDeleting,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// The place of a waiting Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunQueue {
    /// Its place, from 1; beyond 20 rounded up to 50, 100, 200, 500 and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub position: Option<i32>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<QueueReason>,
    /// The same, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub message: Option<String>,
    /// When it may start, as far as limits that users wrote tell; absent rather than guessed. Rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<Time>,
    /// When the first machine of its gang was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_since: Option<Time>,
    /// That it is held because its gang did not come together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

closed_set! {
    /// Why a Run is held.
    HoldReason {
        /// Its gang did not come together within `gangTimeout`.
        GangTimeout,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// That a Run is passed over until some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Until when.
    pub until: Time,
    /// How often in a row: the time doubles from 20 minutes to 4 hours.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub count: i32,
    /// Why.
    pub reason: HoldReason,
}

closed_set! {
    /// How an attempt ended, as far as retries go.
    AttemptCause {
        /// It did what it should.
        Succeeded,
        /// A process exited non-zero, or went over its own limits. Budget `user`.
        UserCode,
        /// Its pods could not be set up: image, volume, size. Budget `user`.
        Setup,
        /// A machine, the registry or the cluster failed it. Budget `infrastructure`.
        Infrastructure,
        /// Allocated, and not started. No budget.
        NotStarted,
        /// Suspended by its user. No budget.
        Suspended,
        /// Cancelled by its user. No budget; ends the Run.
        Canceled,
        /// Stopped to be queued again. No budget.
        Requeue,
        /// Longer than `maxWallClockTime`. No budget; ends the Run.
        WallClock,
        /// Its Cluster was deleted. No budget; ends the Run.
        ClusterDeleted,
        /// Refused by a ResourceQuota of the namespace. No budget.
        NamespaceQuota,
        /// Its Run was deleted. No budget.
        Deleted,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// One attempt, from the moment its allocation was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = first_result_wins(),
    validation = gone_stays_gone(),
    validation = launched_stays_launched(),
)]
pub struct Attempt {
    /// Its number, that of its allocation.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub number: i32,
    /// When it was launched: from then on its pods may run, and a missing one is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched: Option<Time>,
    /// How it ended; absent while it lives. The first one recorded stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<AttemptCause>,
    /// The pod or node that made it end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub culprit: Option<String>,
    /// Its nodes.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub node_count: i32,
    /// When all its main containers ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Exit code of the process that decided it; absent when there is none, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2_147_483_648_i64, max = 2_147_483_647))]
    pub exit_code: Option<i32>,
    /// The reason of the container, pod or node that decided it: `Error`, `OOMKilled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::reason")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub message: Option<String>,
    /// Whether a live list after its end has shown no pod of it: only then are its nodes free.
    #[serde(default)]
    pub pods_gone: bool,
}

/// Attempts so far, and what of the two budgets is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptTotals {
    /// Attempts so far, those not started included.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub attempts: i32,
    /// Failures counted against `retries.user`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub user_failures: i32,
    /// Failures counted against `retries.infrastructure`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub infrastructure_failures: i32,
}

/// Processes of one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// The role.
    pub name: RoleName,
    /// How many there should be.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub desired: i32,
    /// How many run.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub active: i32,
    /// How many exited 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub succeeded: i32,
    /// How many exited otherwise, or were lost.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failed: i32,
}

// The rules below are the last line of defence of the protocol: they hold whatever a stale or paused process writes.

fn end_is_a_one_way_door() -> Rule {
    Rule::new(
        "!has(oldSelf.phase) || !(oldSelf.phase in ['Completed', 'Failed', 'Canceled']) || \
         (has(self.phase) && self.phase == oldSelf.phase)",
    )
    .message("phase cannot be changed any more: the Run has ended")
    .field_path(".phase")
    .reason(Reason::FieldValueForbidden)
}

fn cancel_is_latched() -> Rule {
    Rule::new("!has(oldSelf.cancelRequestedTime) || has(self.cancelRequestedTime)")
        .message("cancelRequestedTime cannot be unset: cancel is latched")
        .field_path(".cancelRequestedTime")
        .reason(Reason::FieldValueForbidden)
}

fn allocation_is_a_commit() -> Rule {
    Rule::new(
        "self.attempt > oldSelf.attempt || (self.attempt == oldSelf.attempt && \
         has(self.nodes) == has(oldSelf.nodes) && (!has(self.nodes) || self.nodes == oldSelf.nodes))",
    )
    .message("the nodes of an attempt cannot be changed, and attempts only grow: allocate the next attempt")
    .field_path(".nodes")
    .reason(Reason::FieldValueForbidden)
}

fn directive_is_final() -> Rule {
    Rule::new(
        "self.attempt > oldSelf.attempt || !has(oldSelf.directive) || (has(self.directive) && \
         self.directive.kind == oldSelf.directive.kind && self.directive.reason == oldSelf.directive.reason)",
    )
    .message("a directive is final for its attempt")
    .field_path(".directive")
    .reason(Reason::FieldValueForbidden)
}

/// An older version reads a cause it does not know as `Unknown` and writes that back: better than being stuck.
fn first_result_wins() -> Rule {
    Rule::new(
        "!has(oldSelf.cause) || (has(self.cause) && (self.cause == oldSelf.cause || self.cause == 'Unknown'))",
    )
    .message("the cause of an attempt's end cannot be changed: the first one recorded stays")
    .field_path(".cause")
    .reason(Reason::FieldValueForbidden)
}

fn gone_stays_gone() -> Rule {
    Rule::new("!has(oldSelf.podsGone) || !oldSelf.podsGone || (has(self.podsGone) && self.podsGone)")
        .message("podsGone cannot be unset: the attempt's nodes may be in use by others")
        .field_path(".podsGone")
        .reason(Reason::FieldValueForbidden)
}

fn launched_stays_launched() -> Rule {
    Rule::new("!has(oldSelf.launched) || has(self.launched)")
        .message("launched cannot be unset: pods of the attempt may run")
        .field_path(".launched")
        .reason(Reason::FieldValueForbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_wrote_can_still_be_read() {
        let status: RunStatus = serde_json::from_value(serde_json::json!({
            "phase": "Hibernating",
            "reason": "Snow",
            "attempts": [{"number": 1, "cause": "Weather"}],
            "queue": {"reason": "Winter"},
            "somethingNew": {"a": 1},
        }))
        .expect("unknown values are no error");
        assert_eq!(status.phase, Some(RunPhase::Unknown));
        assert_eq!(status.reason, Some(RunReason::Unknown));
        assert_eq!(status.attempts[0].cause, Some(AttemptCause::Unknown));
        assert_eq!(status.queue.and_then(|queue| queue.reason), Some(QueueReason::Unknown));
    }

    #[test]
    fn only_three_phases_are_terminal() {
        let terminal: Vec<_> = RunPhase::ALL.iter().filter(|phase| phase.is_terminal()).collect();
        assert_eq!(terminal, [&RunPhase::Completed, &RunPhase::Failed, &RunPhase::Canceled]);
    }

    #[test]
    fn the_text_of_a_value_is_the_text_on_the_wire() {
        for phase in RunPhase::ALL {
            assert_eq!(serde_json::to_value(phase).ok(), Some(phase.as_str().into()));
        }
        for role in RoleName::ALL {
            assert_eq!(serde_json::to_value(role).ok(), Some(role.as_str().into()));
        }
    }
}
