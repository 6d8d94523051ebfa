//! Conditions: the wire form, the closed sets of types, and the one way to change a list of them.
//!
//! Called by every controller that writes status. The wire form is that of `metav1.Condition`, with smaller limits.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::text;

closed_set! {
    /// Whether a condition holds.
    #[derive(Default)]
    ConditionStatus {
        /// It holds.
        True,
        /// It does not hold.
        False,
        /// Not known, or work on it is under way.
        #[default]
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Conditions of a Cluster, in the sense of kstatus.
    ClusterCondition {
        /// True when the Cluster is as asked, Unknown while it works on that, False only when it is stuck.
        Ready,
        /// True while nodes are being added or removed; absent otherwise.
        Reconciling,
        /// True when only a change from outside can help; absent otherwise.
        Stalled,
    }
}

closed_set! {
    /// Conditions of a ClusterNode, in the order in which they become True.
    ClusterNodeCondition {
        /// The engine has a machine for it.
        Launched,
        /// The machine's Node is there.
        Registered,
        /// The Node allocates the accelerators the size promises.
        AcceleratorsReady,
        /// The node's set-up has finished; at once when there is none.
        SetupComplete,
        /// Runs may use it.
        Ready,
    }
}

closed_set! {
    /// Conditions of a Run. There is no `Ready`: a training that fails must not break the deployment that submitted it.
    RunCondition {
        /// The API server would take the Run's pods, by dry-run.
        Accepted,
        /// Nodes are allocated to the latest attempt.
        Allocated,
        /// The latest attempt's pods were released to the scheduler.
        Started,
        /// The Run has succeeded.
        Completed,
        /// The Run has failed for good.
        Failed,
        /// The Run is suspended.
        Suspended,
    }
}

closed_set! {
    /// Conditions of a VmSize.
    CatalogueCondition {
        /// Clusters can use it.
        Ready,
        /// Clusters cannot use it until somebody changes it.
        Stalled,
    }
}

/// One observation about an object: the form of `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is observed; unique in its list.
    #[schemars(length(min = 1, max = 64))]
    pub r#type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for why, for programs.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// A sentence for why, for people.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// `metadata.generation` this was observed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition that changed at `now`. The message is cut to what the schema takes.
    pub fn new(
        kind: impl std::fmt::Display,
        status: ConditionStatus,
        reason: impl std::fmt::Display,
        message: impl AsRef<str>,
        now: jiff::Timestamp,
    ) -> Self {
        Self {
            r#type: kind.to_string(),
            status,
            reason: reason.to_string(),
            message: text::clip(message.as_ref(), text::MESSAGE_MAX),
            last_transition_time: Time(now),
            observed_generation: None,
        }
    }

    /// The same, observed for this generation.
    #[must_use]
    pub fn observed(mut self, generation: Option<i64>) -> Self {
        self.observed_generation = generation;
        self
    }

    /// Whether it holds.
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// The condition of that type, if there is one.
pub fn find(conditions: &[Condition], kind: impl std::fmt::Display) -> Option<&Condition> {
    let kind = kind.to_string();
    conditions.iter().find(|c| c.r#type == kind)
}

/// Whether the condition of that type is there and True.
pub fn is_true(conditions: &[Condition], kind: impl std::fmt::Display) -> bool {
    find(conditions, kind).is_some_and(Condition::is_true)
}

/// Puts `condition` in the place of the one of its type, or at the end. While the status is the same the earlier
/// transition time stays, so setting what is already there changes nothing.
pub fn set(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions.iter_mut().find(|c| c.r#type == condition.r#type) {
        Some(present) => {
            if present.status == condition.status {
                condition.last_transition_time = present.last_transition_time.clone();
            }
            *present = condition;
        }
        None => conditions.push(condition),
    }
}

/// Takes out the condition of that type.
pub fn remove(conditions: &mut Vec<Condition>, kind: impl std::fmt::Display) {
    let kind = kind.to_string();
    conditions.retain(|c| c.r#type != kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).expect("a small number of seconds is a timestamp")
    }

    #[test]
    fn setting_the_same_status_keeps_the_transition_time() {
        let mut list = vec![];
        set(&mut list, Condition::new(RunCondition::Accepted, ConditionStatus::True, "DryRun", "", at(1)));
        set(&mut list, Condition::new(RunCondition::Accepted, ConditionStatus::True, "Other", "m", at(9)));
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].last_transition_time.0, list[0].reason.as_str()), (at(1), "Other"));
    }

    #[test]
    fn a_change_of_status_moves_the_transition_time() {
        let mut list = vec![];
        set(&mut list, Condition::new(RunCondition::Accepted, ConditionStatus::True, "DryRun", "", at(1)));
        set(&mut list, Condition::new(RunCondition::Accepted, ConditionStatus::False, "Quota", "", at(9)));
        assert_eq!(list[0].last_transition_time.0, at(9));
        assert!(!is_true(&list, RunCondition::Accepted));
        remove(&mut list, RunCondition::Accepted);
        assert_eq!(find(&list, RunCondition::Accepted), None);
    }
}
