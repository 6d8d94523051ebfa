//! What trainyard answers about a Run.
//!
//! Three writers, each with its own field manager: the cluster controller writes `allocation` and `queue`, the run
//! controller all the rest. The enums a reader must survive end in `Unknown`, written by a newer version.
//!
//! * [`accepted`]: why a Run is or is not accepted.
//! * [`allocation`]: the nodes of the latest attempt.
//! * [`queue`]: the place of a waiting Run.
//! * [`attempt`]: the attempts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::conditions::Condition;
use crate::distribution::RoleName;
use crate::schema;

pub mod accepted;
pub mod allocation;
pub mod attempt;
pub mod queue;

pub use accepted::AcceptedReason;
pub use allocation::{AllocatedNode, Allocation, Directive, DirectiveKind, DirectiveReason};
pub use attempt::{Attempt, AttemptCause, AttemptTotals};
pub use queue::{GivenUp, Hold, HoldReason, QueueReason, RunQueue};

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
        /// It names a Cluster of another namespace that is not there, or does not let its namespace in.
        ClusterNotAllowed,
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
        /// Its attempts together took longer than `maxTotalTime`.
        TotalTime,
        /// It waited longer than `queueDeadline`.
        QueueDeadline,
        /// Its Cluster was deleted while it ran.
        ClusterDeleted,
        /// `maxNodes` of its Cluster was lowered below what ran, with `deallocation: Terminate`.
        Deallocated,
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
    /// When it last came into the queue: when it was first seen, queued again after an attempt that was launched, or
    /// resumed. `queueDeadline` counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_time: Option<Time>,
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
