//! `Cluster`: a pool of equal machines that grows with the queue of its Runs and shrinks when they are done.
//!
//! `spec` is the user's. `status` is written by the cluster controller only, in AmlCompute's words, and does not grow
//! with the number of nodes: each node is a ClusterNode.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::closed_set::closed_set;
use crate::cluster_node::VmSizeFacts;
use crate::conditions::Condition;
use crate::schema;
use crate::tenancy::NamespaceSelector;
use crate::vm_size::SIZE_NAME_PATTERN;

pub use crate::scale::{Deallocation, Scale, default_idle_seconds};

/// Most nodes one Cluster may have: the size up to which planning and status are measured.
pub const MAX_NODES: i32 = 1000;
/// Longest idle time, in seconds: 30 days.
pub const MAX_IDLE_SECONDS: i32 = 2_592_000;

const INSTEAD: &str = "only scale, hold and allowedNamespaces can be changed; delete the Cluster and create it again, or create another one";

/// A pool of equal machines.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "Cluster",
    plural = "clusters",
    namespaced,
    shortname = "tyc",
    category = "trainyard",
    status = "ClusterStatus",
    derive = "PartialEq",
    doc = "A pool of equal machines that grows with the queue of its Runs and shrinks when they are done.",
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.vmSize"),
    printcolumn(name = "Priority", type_ = "string", json_path = ".spec.vmPriority", priority = 1),
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.scale.minNodes"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.scale.maxNodes"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.currentNodeCount"),
    printcolumn(name = "Idle", type_ = "integer", json_path = ".status.nodeStateCounts.idle"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queue.queued"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.allocationState"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    validation = schema::short_name("Cluster")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = schema::stays("provisioningClass", INSTEAD),
    validation = schema::at_creation(initial_is_at_most_max()),
)]
pub struct ClusterSpec {
    /// The size of every machine: `sizeName` or alias of a VmSize, in any case. Cannot be changed.
    #[schemars(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN))]
    #[x_kube(validation = schema::fixed("vmSize", INSTEAD))]
    pub vm_size: String,
    /// Whether the machines are the cloud's to take back. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = schema::fixed("vmPriority", INSTEAD))]
    pub vm_priority: VmPriority,
    /// Name of the ProvisioningClass; absent, the default class at creation. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    #[x_kube(validation = schema::fixed("provisioningClass", INSTEAD))]
    pub provisioning_class: Option<String>,
    /// How many machines, and how long one may idle.
    pub scale: Scale,
    /// What it does not do for now.
    #[serde(default)]
    pub hold: ClusterHold,
    /// Namespaces whose Runs may name this Cluster, besides its own; absent, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<NamespaceSelector>,
}

impl ClusterSpec {
    /// Whether Runs of `namespace`, which has these labels as far as known, may use a Cluster in namespace `own`.
    pub fn lets_in(&self, own: &str, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let selected =
            || self.allowed_namespaces.as_ref().zip(labels).is_some_and(|(one, labels)| one.selects(labels));
        namespace == own || selected()
    }
}

closed_set! {
    /// The price and the risk of a machine: AmlCompute's `vm_priority`.
    #[derive(Default)]
    VmPriority {
        /// Full price, kept.
        #[default]
        Dedicated,
        /// Cheap; the cloud may take it back at any time. Also called spot.
        LowPriority,
    }
}

fn initial_is_at_most_max() -> kube::core::Rule {
    kube::core::Rule::new("self.scale.initialNodes <= self.scale.maxNodes")
        .message("initialNodes must not be greater than maxNodes: lower initialNodes or raise maxNodes")
        .field_path(".scale.initialNodes")
}

/// Node names are made from ordinals: one given twice would let two machines pass for one.
fn ordinals_only_grow() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(oldSelf.lastNodeOrdinal) || \
         (has(self.lastNodeOrdinal) && self.lastNodeOrdinal >= oldSelf.lastNodeOrdinal)",
    )
    .message("lastNodeOrdinal never goes down: ordinals are not used again")
    .field_path(".lastNodeOrdinal")
    .reason(kube::core::Reason::FieldValueForbidden)
}

closed_set! {
    /// What a Cluster does not do for now.
    #[derive(Default)]
    ClusterHold {
        /// Nothing is held back.
        #[default]
        None,
        /// No Run is started; what runs goes on, and nodes leave when they idle: the Cluster is drained.
        NoNewRuns,
        /// No Run is started, no node asked for and none given back that could still serve.
        Freeze,
    }
}

closed_set! {
    /// AmlCompute's `provisioningState`: the Cluster as an object.
    ProvisioningState {
        /// Created; no status has been decided yet.
        Creating,
        /// A change of its spec is being taken up.
        Updating,
        /// As asked, or on the way there without trouble.
        Succeeded,
        /// Nothing more happens until somebody changes something; see `errors`.
        Failed,
        /// Being deleted.
        Deleting,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// AmlCompute's `allocationState`: whether nodes come or go.
    AllocationState {
        /// No node is coming or going.
        Steady,
        /// Nodes are coming or going.
        Resizing,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Why a Cluster cannot be as asked.
    ClusterErrorCode {
        /// No VmSize has that name or alias.
        VmSizeNotFound,
        /// The cloud sells the size no more; the message names the successor.
        VmSizeRetired,
        /// Two VmSizes claim the name.
        VmSizeAmbiguous,
        /// The size is not sold at low priority.
        LowPriorityNotSold,
        /// No ProvisioningClass has that name.
        ProvisioningClassNotFound,
        /// The Cluster names no class and none is marked as the default.
        NoDefaultProvisioningClass,
        /// More than one class is marked as the default.
        ManyDefaultProvisioningClasses,
        /// The class is not for Clusters of this namespace.
        NamespaceNotAllowed,
        /// The class is not for machines of this size.
        VmSizeNotAllowed,
        /// The class grants fewer nodes than are asked for.
        NodeLimitReached,
        /// The class of the recorded name now has another engine.
        ProvisioningClassChanged,
        /// The engine refuses the class: its own object is missing or not ready, or its API is not installed.
        ProvisioningClassInvalid,
        /// The engine has no such machine now.
        StockOut,
        /// The cloud's quota is used up.
        QuotaExceeded,
        /// The engine refused for another reason.
        LaunchFailed,
        /// The engine took the order and delivered nothing in time.
        LaunchTimeout,
        /// Machines came but could not be used by runs.
        NodesUnusable,
        /// Nodes that shall leave have a pod on them that carries a run's label; the message names it.
        NodesOccupied,
        /// An annotation asks for a node to be removed that this Cluster never had.
        NodeToRemoveNotFound,
        /// Nodes that the class selects are not taken, because they are smaller than the size; the message names them.
        NodesTooSmall,
        /// Machines with our labels that no ClusterNode accounts for.
        StrayMachines,
        /// A machine of that name exists and is not ours.
        NameTaken,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

closed_set! {
    /// Why no further machine is asked for until some time.
    BackoffCause {
        /// The engine has no such machine now: 1 to 30 minutes.
        StockOut,
        /// The cloud's quota is used up: longer.
        QuotaExceeded,
        /// The engine refused for another reason.
        LaunchFailed,
        /// The engine took the order and delivered nothing in time.
        LaunchTimeout,
        /// Machines came but could not be used by runs.
        NodesUnusable,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// What is, in AmlCompute's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ordinals_only_grow())]
pub struct ClusterStatus {
    /// The Cluster as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_state: Option<ProvisioningState>,
    /// Whether nodes come or go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_state: Option<AllocationState>,
    /// When `allocationState` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_state_transition_time: Option<Time>,
    /// Nodes that exist or are on their way.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub current_node_count: i32,
    /// Nodes wanted now: of the resize under way, or of the last one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub target_node_count: i32,
    /// Nodes by state.
    #[serde(default)]
    pub node_state_counts: NodeStateCounts,
    /// What keeps the Cluster from being as asked, at most 10; cleared when it is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub errors: Vec<ClusterError>,
    /// The queue of this Cluster's Runs, in numbers.
    #[serde(default)]
    pub queue: ClusterQueue,
    /// When the next idle node leaves if nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scale_down_time: Option<Time>,
    /// Causes for which no machine is asked for until some time, at most 8. Cleared when a node of that cause and
    /// zone becomes ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub backoff: Vec<Backoff>,
    /// The highest ordinal given to a ClusterNode. Ordinals are never used again.
    #[serde(default)]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub last_node_ordinal: i64,
    /// The highest ordinal when `initialNodes` had been asked for: they are not asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub initial_nodes_last_ordinal: Option<i64>,
    /// What a node has for Runs, as last measured: the least of the nodes that are there, or of those that were. What
    /// `resourcesPerNode` of a Run must fit into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_capacity: Option<Capacity>,
    /// The zone chosen for all nodes, for `placement.mode: SameZone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::zone")]
    pub zone: Option<String>,
    /// The size last found: what each new node is held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_size: Option<VmSizeFacts>,
    /// The class found at first, kept from then on: a new default moves no Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_class: Option<ProvisioningClassRef>,
    /// `Ready`, and beside it `Reconciling` or `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// `metadata.generation` this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::INTEGER_MAX))]
    pub observed_generation: Option<i64>,
}

/// Nodes by state: AmlCompute's `nodeStateCounts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateCounts {
    /// Asked for, and not yet usable by runs.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preparing: i32,
    /// Usable, and used by no run.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub idle: i32,
    /// Used by a run.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub running: i32,
    /// On the way out.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub leaving: i32,
    /// There, and of no use to runs.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub unusable: i32,
    /// Taken back by the cloud.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub preempted: i32,
}

/// One thing that keeps a Cluster from being as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterError {
    /// What it is.
    pub code: ClusterErrorCode,
    /// A sentence for people: what is wrong and what to do.
    #[serde(default)]
    #[schemars(schema_with = "schema::message")]
    pub message: String,
    /// When it was first seen.
    pub since: Time,
    /// How often it was seen.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub count: i32,
}

/// The queue of a Cluster's Runs, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterQueue {
    /// Runs that wait.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub queued: i32,
    /// Runs with a live attempt.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub active: i32,
    /// Since when the oldest waiting Run waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_queued_since: Option<Time>,
}

/// A cause for which no machine is asked for until some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// What was refused.
    pub cause: BackoffCause,
    /// In which zone; absent when the refusal named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::zone")]
    pub zone: Option<String>,
    /// How often in a row.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub count: i32,
    /// Until when nothing more is asked for.
    pub until: Time,
}

/// The class a Cluster uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProvisioningClassRef {
    /// Name of the ProvisioningClass.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// UID it had when it was found.
    #[schemars(schema_with = "schema::uid")]
    pub uid: String,
    /// Where its machines come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// Most machines it grants to one Cluster; absent, as many as `maxNodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_NODES))]
    pub max_nodes_per_cluster: Option<i32>,
    /// Most machines it grants to all Clusters of a namespace that use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_nodes_per_namespace: Option<i32>,
}

closed_set! {
    /// Where the machines of a class come from.
    EngineKind {
        /// Karpenter makes them.
        Karpenter,
        /// They are there already, and are lent.
        Static,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}
