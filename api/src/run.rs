//! `Run`: one training job on nodes of one Cluster. This file has what the user writes; [`crate::run_status`] what
//! trainyard answers.
//!
//! All of `spec` but `priority`, `suspend`, `cancel` and `ttlAfterFinished` is fixed at creation: an attempt that is
//! started again must be the same training.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::distribution::Distribution;
use crate::duration::Duration;
use crate::names;
use crate::pod_template::{ContainerSecurityContext, PodTemplate};
use crate::resources_per_node::ResourcesPerNode;
use crate::retention::CleanPodPolicy;
use crate::run_status::RunStatus;
use crate::schema;
use crate::text_total;
use crate::variables;

/// Most nodes of one Run.
pub const MAX_NODES: i32 = 1000;

const INSTEAD: &str =
    "only priority, suspend, cancel and ttlAfterFinished can be changed; create another Run";

/// One training job on nodes of one Cluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "Run",
    plural = "runs",
    namespaced,
    shortname = "tyr",
    category = "trainyard",
    status = "RunStatus",
    derive = "PartialEq",
    doc = "One training job on nodes of one Cluster: all of its nodes or none.",
    selectable = ".status.phase",
    selectable = ".spec.clusterRef.name",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Experiment", type_ = "string", json_path = ".spec.experiment"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.nodeCount"),
    printcolumn(name = "Priority", type_ = "string", json_path = ".spec.priority"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Queue", type_ = "integer", json_path = ".status.queue.position"),
    printcolumn(name = "Waiting", type_ = "string", json_path = ".status.queue.reason"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.allocation.attempt", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    validation = schema::short_name("Run")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = schema::stays("command", INSTEAD),
    validation = schema::stays("args", INSTEAD),
    validation = schema::stays("environment", INSTEAD),
    validation = schema::stays("distribution", INSTEAD),
    validation = schema::stays("podTemplate", INSTEAD),
    validation = schema::stays("resourcesPerNode", INSTEAD),
    validation = schema::stays("maxTotalTime", INSTEAD),
    validation = schema::stays("queueDeadline", INSTEAD),
    validation = schema::at_creation(parameter_servers_fit()),
    validation = schema::at_creation(every_node_has_a_process()),
    validation = schema::at_creation(processes_fit()),
    validation = schema::at_creation(variables::run_leaves_ours_alone()),
    validation = schema::at_creation(variables::tensorflow_leaves_ours_alone()),
    validation = schema::at_creation(variables::pytorch_leaves_ours_alone()),
    validation = schema::at_creation(variables::jax_leaves_ours_alone()),
    validation = schema::at_creation(variables::are_set_once()),
    validation = schema::at_creation(variables::neighbours_accelerators_stay_hidden()),
    validation = schema::at_creation(text_total::is_bounded()),
)]
pub struct RunSpec {
    /// The Cluster it runs on. Cannot be changed.
    #[x_kube(validation = schema::fixed("clusterRef", INSTEAD))]
    pub cluster_ref: ClusterRef,
    /// The Experiment it belongs to, in the same namespace; made if it is not there. Cannot be changed.
    #[serde(default = "default_experiment")]
    #[schemars(schema_with = "schema::label_name")]
    #[x_kube(validation = schema::fixed("experiment", INSTEAD))]
    pub experiment: String,
    /// Its place in the queue: higher ones go first. May be changed; that matters while it is queued.
    #[serde(default)]
    pub priority: Priority,
    /// Nodes it needs, 1 to 1000: it starts on all of them or on none. Cannot be changed.
    #[serde(default = "one_node")]
    #[schemars(range(min = 1, max = MAX_NODES))]
    #[x_kube(validation = schema::fixed("nodeCount", INSTEAD))]
    pub node_count: i32,
    /// What it takes of each node; absent, the whole node. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = schema::fixed("resourcesPerNode", INSTEAD))]
    pub resources_per_node: Option<ResourcesPerNode>,
    /// The container of every role. Cannot be changed.
    #[x_kube(validation = schema::fixed("container", INSTEAD))]
    pub container: Container,
    /// The program and its first arguments; absent, the image's entry point. No shell. Cannot be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::words")]
    #[x_kube(validation = schema::fixed("command", INSTEAD))]
    pub command: Vec<String>,
    /// Further arguments; absent, with no `command` either, the image's. Cannot be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::words")]
    #[x_kube(validation = schema::fixed("args", INSTEAD))]
    pub args: Vec<String>,
    /// Environment variables by name, at most 100. Cannot be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::environment")]
    #[x_kube(
        validation = schema::fixed("environment", INSTEAD),
        validation = schema::at_creation(variables::names_are_valid())
    )]
    pub environment: BTreeMap<String, String>,
    /// How its processes find each other; absent, one process on each node that is told nothing. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = schema::fixed("distribution", INSTEAD))]
    pub distribution: Option<Distribution>,
    /// Whose exit makes it a success. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = schema::fixed("successPolicy", INSTEAD))]
    pub success_policy: SuccessPolicy,
    /// Longest time of one attempt, from its start: from 1s to 87600h. Cannot be changed.
    #[serde(default = "default_wall_clock")]
    #[x_kube(
        validation = schema::fixed("maxWallClockTime", INSTEAD),
        validation = schema::at_creation(schema::between("1s", "87600h"))
    )]
    pub max_wall_clock_time: Duration,
    /// Longest time of all attempts together, each from its launch to its recorded end: from 1s to 87600h. Waiting and
    /// being suspended do not count. Absent, no limit. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = schema::fixed("maxTotalTime", INSTEAD),
        validation = schema::at_creation(schema::between("1s", "87600h"))
    )]
    pub max_total_time: Option<Duration>,
    /// How often it is tried again. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = schema::fixed("retries", INSTEAD))]
    pub retries: Retries,
    /// How long nodes may be bought for it that wait for the rest: from 1s to 87600h. Then they are given back and the
    /// Run is held for a while. Cannot be changed.
    #[serde(default = "default_gang_timeout")]
    #[x_kube(
        validation = schema::fixed("gangTimeout", INSTEAD),
        validation = schema::at_creation(schema::between("1s", "87600h"))
    )]
    pub gang_timeout: Duration,
    /// Longest time in phase Queued at a stretch, from `status.queuedTime`: from 1s to 87600h; then it ends as Failed.
    /// Absent, it waits as long as it takes. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = schema::fixed("queueDeadline", INSTEAD),
        validation = schema::at_creation(schema::between("1s", "87600h"))
    )]
    pub queue_deadline: Option<Duration>,
    /// Which of its pods are deleted when an attempt is over. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = schema::fixed("cleanPodPolicy", INSTEAD))]
    pub clean_pod_policy: CleanPodPolicy,
    /// So long after its end its pods and its Service are deleted, the Run itself is not: from 0s to 87600h. Absent, they
    /// stay. May be changed or taken out at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = schema::between("0s", "87600h"))]
    pub ttl_after_finished: Option<Duration>,
    /// True stops the attempt, or keeps it from starting, until false again. It keeps its place and costs no retry.
    #[serde(default)]
    pub suspend: bool,
    /// True ends the Run as Canceled. Latched: false afterwards changes nothing.
    #[serde(default)]
    pub cancel: bool,
    /// Additions to its pods. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = schema::fixed("podTemplate", INSTEAD))]
    pub pod_template: Option<PodTemplate>,
}

/// The Cluster of a Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the Cluster.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Its namespace, which must let the Run's namespace in by `allowedNamespaces`; absent, the Run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_name")]
    pub namespace: Option<String>,
}

impl ClusterRef {
    /// The namespace of the Cluster, for a Run in namespace `own`.
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().unwrap_or(own)
    }
}

closed_set! {
    /// Place in the queue: Batch AI's `schedulingPriority`.
    #[derive(Default)]
    Priority {
        /// After all others.
        Low,
        /// After High.
        #[default]
        Normal,
        /// Before all others. Enough of these starve the rest.
        High,
    }
}

closed_set! {
    /// Whose exit makes a Run a success.
    #[derive(Default)]
    SuccessPolicy {
        /// The chief's, or worker 0's if there is no chief. The others are then stopped.
        #[default]
        Primary,
        /// The chief's and every worker's.
        AllWorkers,
    }
}

/// The container of every role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The image, with registry and tag or digest.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[^\\s]+$"))]
    pub image: String,
    /// When the image is pulled; absent, Kubernetes' own rule: always for `:latest`, else if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Names of Secrets with credentials of the registry, in the Run's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub image_pull_secrets: Vec<String>,
    /// Directory in which the command starts; absent, the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub working_dir: Option<String>,
    /// Under whom it runs, and what it may do; absent, as the image and `podTemplate.securityContext` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<ContainerSecurityContext>,
}

closed_set! {
    /// When an image is pulled.
    ImagePullPolicy {
        /// Each time.
        Always,
        /// If it is not on the node.
        IfNotPresent,
        /// Never: it must be on the node.
        Never,
    }
}

/// Two budgets of further attempts, never mixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// After a failure of the training or of its set-up, 0 to 1000.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub user: i32,
    /// After a failure of a machine, 0 to 1000.
    #[serde(default = "default_infrastructure_retries")]
    #[schemars(range(min = 0, max = 1000))]
    pub infrastructure: i32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { user: 0, infrastructure: default_infrastructure_retries() }
    }
}

fn default_experiment() -> String {
    names::DEFAULT_EXPERIMENT.to_owned()
}

const fn one_node() -> i32 {
    1
}

const fn default_wall_clock() -> Duration {
    Duration::from_hours(168)
}

const fn default_gang_timeout() -> Duration {
    Duration::from_mins(20)
}

const fn default_infrastructure_retries() -> i32 {
    10
}

/// The counts of a TensorFlow Run as its rules see them: what is not written has the default of
/// [`crate::distribution::TensorFlow`]. Used as the prefix of a rule's condition.
const TENSORFLOW: &str = "!has(self.distribution) || !has(self.distribution.tensorflow)";
const CHIEFS: &str = "(has(self.distribution.tensorflow.chief) ? (has(self.distribution.tensorflow.chief.count) ? \
                      self.distribution.tensorflow.chief.count : 1) : 0)";
const WORKER_COUNT_WRITTEN: &str =
    "has(self.distribution.tensorflow.worker) && has(self.distribution.tensorflow.worker.count)";

fn parameter_servers_fit() -> kube::core::Rule {
    kube::core::Rule::new(format!(
        "{TENSORFLOW} || !has(self.distribution.tensorflow.parameterServer) || \
         !has(self.distribution.tensorflow.parameterServer.count) || \
         self.distribution.tensorflow.parameterServer.count <= self.nodeCount"
    ))
    .message(
        "parameterServer.count must not be greater than nodeCount: at most one parameter server sits on a node",
    )
    .field_path(".distribution.tensorflow.parameterServer.count")
}

fn every_node_has_a_process() -> kube::core::Rule {
    kube::core::Rule::new(format!(
        "{TENSORFLOW} || !({WORKER_COUNT_WRITTEN}) || \
         self.distribution.tensorflow.worker.count + {CHIEFS} >= self.nodeCount"
    ))
    .message(
        "chief.count and worker.count together must be at least nodeCount, or nodes would do nothing: \
         lower nodeCount, raise worker.count, or leave worker.count out",
    )
    .field_path(".distribution.tensorflow.worker.count")
}

fn processes_fit() -> kube::core::Rule {
    kube::core::Rule::new(format!(
        "{TENSORFLOW} || !({WORKER_COUNT_WRITTEN}) || \
         self.distribution.tensorflow.worker.count + {CHIEFS} <= self.nodeCount * 16"
    ))
    .message(
        "chief.count and worker.count together must be at most 16 for each node: \
         lower worker.count or raise nodeCount",
    )
    .field_path(".distribution.tensorflow.worker.count")
}
