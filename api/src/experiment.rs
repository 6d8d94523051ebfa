//! `Experiment`: a named group of Runs. Made on first use by a Run, if nobody made it before.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::retention::Retention;
use crate::schema;

/// A named group of Runs.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "Experiment",
    plural = "experiments",
    namespaced,
    shortname = "tye",
    category = "trainyard",
    status = "ExperimentStatus",
    derive = "PartialEq",
    doc = "A named group of Runs. Made on first use by a Run, if nobody made it before.",
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.runs.queued"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.runs.running"),
    printcolumn(name = "Completed", type_ = "integer", json_path = ".status.runs.completed"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.runs.failed"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description", priority = 1),
    validation = name_rule()
)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentSpec {
    /// What it is about, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub description: Option<String>,
    /// Which of its finished Runs are kept; absent, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// What is known of an Experiment's Runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentStatus {
    /// Its Runs by phase.
    #[serde(default)]
    pub runs: RunCounts,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub observed_generation: Option<i64>,
}

/// Runs by phase. A Run without a phase yet counts as queued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunCounts {
    /// All of them.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub total: i32,
    /// Waiting.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub queued: i32,
    /// On the way to running.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub preparing: i32,
    /// Running.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub running: i32,
    /// Result recorded, pods stopping.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub finalizing: i32,
    /// Suspended by their user.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub suspended: i32,
    /// Cancelled by their user, pods stopping.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub cancel_requested: i32,
    /// Succeeded.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub completed: i32,
    /// Failed for good.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub failed: i32,
    /// Cancelled.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub canceled: i32,
}

fn name_rule() -> kube::core::Rule {
    kube::core::Rule::new(format!(
        "self.metadata.name.matches('{}') && size(self.metadata.name) <= 63",
        schema::LABEL_PATTERN
    ))
    .message(
        "the name of an Experiment must have only lower-case letters, digits and '-', start and end with a letter or \
         digit, and have at most 63 characters: it is a label of its Runs' pods",
    )
}
