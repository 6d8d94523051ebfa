//! How the processes of one Run find each other: `tensorflow`, `pytorch` or `jax`, at most one.
//!
//! ## TensorFlow: who sits where
//!
//! Chief and workers use the accelerators; parameter servers sit on the first nodes beside them, at most one per node.
//! No node may be without a chief or worker, so `chief.count + worker.count` is at least `nodeCount`. When
//! `worker.count` is not written, each node gets exactly one of them: workers are `nodeCount - chief.count`, the chief
//! taking one node's place.
//!
//! An evaluator sits on the last node, beside the processes there, without accelerators: it looks at checkpoints, and a
//! training must not be slower, or be refused because accelerators do not divide any more, for being looked at.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::schema;
use crate::variables;

/// Most workers of a Run. `TF_CONFIG` lists every one, and one environment variable holds 128 KiB.
pub const MAX_WORKERS: i32 = 1000;
/// Most processes of one Run on one node: the accelerators of the largest machines.
pub const MAX_PROCESSES_PER_NODE: i32 = 16;

/// At most one of the ways in which processes find each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one())]
pub struct Distribution {
    /// Through `TF_CONFIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorflow: Option<TensorFlow>,
    /// Through the variables of torchrun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pytorch: Option<PyTorch>,
    /// Through the arguments of `jax.distributed.initialize`, as variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jax: Option<Jax>,
}

/// Roles of TensorFlow's `TF_CONFIG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = chief_at_most_one(), validation = evaluator_at_most_one())]
pub struct TensorFlow {
    /// The process that also writes checkpoints; its exit decides the Run. None unless written; `{}` means one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chief: Option<TensorFlowRole>,
    /// The processes that train. When `count` is not written: `nodeCount` less the chief.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<TensorFlowRole>,
    /// The processes that hold the parameters, without accelerators. None unless written; `{}` means one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter_server: Option<TensorFlowRole>,
    /// The process that evaluates checkpoints beside the training, without accelerators. It is told of the others, and
    /// they are not told of it: nobody waits for it, and its failure fails nothing. None unless written; `{}` means one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<TensorFlowRole>,
}

/// One role. What it does not write is the Run's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorFlowRole {
    /// How many processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_WORKERS))]
    pub count: Option<i32>,
    /// Instead of the Run's `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::words")]
    pub command: Option<Vec<String>>,
    /// Instead of the Run's `args`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::words")]
    pub args: Option<Vec<String>>,
    /// Beside the Run's `environment`; of one name, this one counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::environment")]
    #[x_kube(validation = variables::names_are_valid(), validation = variables::role_leaves_ours_alone())]
    pub environment: BTreeMap<String, String>,
}

/// Processes started by torchrun, or one for each node by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PyTorch {
    /// Processes torchrun starts on each node, 1 to 16: `PET_NPROC_PER_NODE`. With 1, `RANK` and `WORLD_SIZE` are set,
    /// too, and torchrun is not needed.
    #[serde(default = "one_process")]
    #[schemars(range(min = 1, max = MAX_PROCESSES_PER_NODE))]
    pub process_count_per_node: i32,
    /// The backend a script finds in `AZ_BATCHAI_PYTORCH_BACKEND`; absent, the variable is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<PyTorchBackend>,
}

impl Default for PyTorch {
    fn default() -> Self {
        Self { process_count_per_node: one_process(), backend: None }
    }
}

const fn one_process() -> i32 {
    1
}

/// One process on each node, with all of the node's accelerators as its local devices: `COORDINATOR_ADDRESS`,
/// `COORDINATOR_PORT`, `NUM_PROCESSES` and `PROCESS_ID`; the coordinator is worker 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("maxProperties" = 0))]
pub struct Jax {}

closed_set! {
    /// Backends of `torch.distributed`, as `init_process_group` takes them.
    PyTorchBackend {
        /// For cpus.
        Gloo = "gloo",
        /// For NVIDIA and AMD accelerators.
        Nccl = "nccl",
        /// For a torch built with MPI.
        Mpi = "mpi",
    }
}

closed_set! {
    /// Roles, as they stand in pod names, labels and `TF_CONFIG`.
    RoleName {
        /// TensorFlow's chief.
        Chief = "chief",
        /// Every process that trains; the only role without a distribution.
        Worker = "worker",
        /// TensorFlow's parameter server.
        ParameterServer = "ps",
        /// TensorFlow's evaluator.
        Evaluator = "evaluator",
    }
}

impl TensorFlow {
    /// Chiefs: 0 or 1.
    pub fn chief_count(&self) -> i32 {
        self.chief.as_ref().map_or(0, |role| role.count.unwrap_or(1))
    }

    /// Workers of a Run on that many nodes.
    pub fn worker_count(&self, node_count: i32) -> i32 {
        self.worker.as_ref().and_then(|role| role.count).unwrap_or(node_count - self.chief_count())
    }

    /// Parameter servers.
    pub fn parameter_server_count(&self) -> i32 {
        self.parameter_server.as_ref().map_or(0, |role| role.count.unwrap_or(1))
    }

    /// Evaluators: 0 or 1.
    pub fn evaluator_count(&self) -> i32 {
        self.evaluator.as_ref().map_or(0, |role| role.count.unwrap_or(1))
    }
}

fn exactly_one() -> kube::core::Rule {
    kube::core::Rule::new("[has(self.tensorflow), has(self.pytorch), has(self.jax)].filter(x, x).size() == 1")
        .message("distribution must have exactly one of tensorflow, pytorch and jax; leave it out for none")
}

fn chief_at_most_one() -> kube::core::Rule {
    kube::core::Rule::new("!has(self.chief) || !has(self.chief.count) || self.chief.count <= 1")
        .message("chief.count must be 0 or 1: further processes are workers")
        .field_path(".chief.count")
}

fn evaluator_at_most_one() -> kube::core::Rule {
    kube::core::Rule::new("!has(self.evaluator) || !has(self.evaluator.count) || self.evaluator.count <= 1")
        .message("evaluator.count must be 0 or 1: one process evaluates every checkpoint")
        .field_path(".evaluator.count")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(count: Option<i32>) -> TensorFlowRole {
        TensorFlowRole { count, ..TensorFlowRole::default() }
    }

    #[test]
    fn workers_default_to_one_for_each_node() {
        assert_eq!(TensorFlow::default().worker_count(3), 3);
    }

    #[test]
    fn the_chief_takes_one_nodes_place() {
        let tensorflow = TensorFlow { chief: Some(role(None)), ..TensorFlow::default() };
        assert_eq!((tensorflow.chief_count(), tensorflow.worker_count(3)), (1, 2));
        assert_eq!(tensorflow.worker_count(1), 0);
    }

    #[test]
    fn a_written_count_is_kept() {
        let tensorflow = TensorFlow {
            chief: Some(role(Some(0))),
            worker: Some(role(Some(5))),
            parameter_server: Some(role(None)),
            evaluator: Some(role(None)),
        };
        assert_eq!(
            (tensorflow.chief_count(), tensorflow.worker_count(3), tensorflow.parameter_server_count()),
            (0, 5, 1)
        );
        assert_eq!(tensorflow.evaluator_count(), 1);
    }
}
