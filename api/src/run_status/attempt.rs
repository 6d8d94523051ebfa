//! One attempt after the other, and how each ended: written by the run controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;

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
        /// With it, all attempts together took longer than `maxTotalTime`. No budget; ends the Run.
        TotalTime,
        /// Its Cluster was deleted. No budget; ends the Run.
        ClusterDeleted,
        /// `maxNodes` of its Cluster was lowered, with `deallocation: Terminate`. No budget; ends the Run.
        Deallocated,
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
    /// When it ended: when the last of its processes had, if all had by then; else when its end was recorded.
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
    /// Seconds that all ended attempts took together, each from `launched` to `endTime`: what `maxTotalTime` limits.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub running_seconds: i32,
}

// The rules below are the last line of defence of the protocol: they hold whatever a stale or paused process writes.

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
