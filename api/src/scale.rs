//! How many machines a Cluster has, and what becomes of Runs when that changes.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::cluster::{MAX_IDLE_SECONDS, MAX_NODES};

/// How many machines, and how long one may idle: AmlCompute's `scaleSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = min_is_at_most_max())]
pub struct Scale {
    /// Nodes kept even when nothing runs; they cost money. From 0 to `maxNodes`.
    #[serde(default)]
    #[schemars(range(min = 0, max = MAX_NODES))]
    pub min_nodes: i32,
    /// Nodes the Cluster never asks beyond, 0 to 1000. A Run that needs more waits.
    #[schemars(range(min = 0, max = MAX_NODES))]
    pub max_nodes: i32,
    /// Nodes asked for once, when the Cluster is created, 0 to `maxNodes`; each leaves when it has idled for long enough. Counts at
    /// creation only.
    #[serde(default)]
    #[schemars(range(min = 0, max = MAX_NODES))]
    pub initial_nodes: i32,
    /// What becomes of Runs when `maxNodes` is lowered below what runs.
    #[serde(default)]
    pub deallocation: Deallocation,
    /// Seconds a node may idle before it is removed, 0 to 2592000 (30 days).
    #[serde(default = "default_idle_seconds")]
    #[schemars(range(min = 0, max = MAX_IDLE_SECONDS))]
    pub idle_seconds_before_scale_down: i32,
}

/// The default of `idleSecondsBeforeScaleDown`, AmlCompute's since 2025.
pub const fn default_idle_seconds() -> i32 {
    120
}

fn min_is_at_most_max() -> kube::core::Rule {
    kube::core::Rule::new("self.minNodes <= self.maxNodes")
        .message("minNodes must not be greater than maxNodes: lower minNodes or raise maxNodes")
        .field_path(".minNodes")
}

closed_set! {
    /// What becomes of Runs when `maxNodes` is lowered below what runs: Batch AI's `nodeDeallocationOption`.
    #[derive(Default)]
    Deallocation {
        /// They run on; nodes above the maximum leave when they are done.
        #[default]
        WaitForRunCompletion,
        /// As few as can be are stopped, at no cost, and queued again at their old place.
        Requeue,
        /// As few as can be are stopped and fail.
        Terminate,
    }
}
