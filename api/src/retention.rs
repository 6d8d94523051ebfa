//! What is kept of finished work, and for how long: a Run's pods, an Experiment's Runs.

use kube::KubeSchema;
use kube::core::Rule;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::duration::Duration;
use crate::schema;

closed_set! {
    /// Which pods are deleted when an attempt is over: Kubeflow's `cleanPodPolicy`.
    #[derive(Default)]
    CleanPodPolicy {
        /// Those that still run. Finished ones stay, with their logs, until their node goes.
        #[default]
        Running,
        /// All of them, once the result of the attempt is recorded.
        All,
    }
}

/// Which finished Runs of an Experiment are kept. The others are deleted, oldest first; a Run that has not finished never
/// is. With both limits, a Run is deleted as soon as one of them says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = some_limit())]
pub struct Retention {
    /// So long after its end a Run is kept: from 1s to 87600h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = schema::between("1s", "87600h"))]
    pub max_age: Option<Duration>,
    /// So many finished Runs are kept, those that ended last: 1 to 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_count: Option<i32>,
}

fn some_limit() -> Rule {
    Rule::new("has(self.maxAge) || has(self.maxCount)").message(
        "retention needs maxAge (as 720h), maxCount (as 100) or both; leave it out to keep every Run",
    )
}
