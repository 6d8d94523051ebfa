//! `ClusterNode`: one machine of a Cluster, from the moment it is asked for until it is gone.
//!
//! `spec` is intent, written only by the cluster controller: the claims on it are the lock that keeps one share of a
//! machine from being given twice. `status` is facts, written only by the node controller. No user writes either;
//! deleting one by hand reads as "replace this node after its runs".

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, MAX_PODS};
use crate::closed_set::closed_set;
use crate::conditions::Condition;
use crate::placement::{Taint, Toleration};
use crate::schema;
use crate::vm_size::{Accelerator, SIZE_NAME_PATTERN, VmSizeSpec};

mod engine;
mod reason;

pub use engine::{CapacityType, Engine, KarpenterNode, StaticNode};
pub use reason::NodeReason;

const INSTEAD: &str = "a ClusterNode is written by trainyard only; delete it to have the machine replaced";

/// What one machine is wanted for.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "ClusterNode",
    plural = "clusternodes",
    namespaced,
    shortname = "tycn",
    category = "trainyard",
    status = "ClusterNodeStatus",
    derive = "PartialEq",
    doc = "One machine of a Cluster, from the moment it is asked for until it is gone. Written by trainyard only; deleting it means: replace this machine after its runs.",
    selectable = ".spec.cluster.uid",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster.name"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Run", type_ = "string", json_path = ".spec.claims[*].runName"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".status.zone", priority = 1),
    printcolumn(name = "IdleSince", type_ = "date", json_path = ".spec.idleSince", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = released_is_final(),
    validation = released_has_no_claims(),
    validation = final_retirement_stays(),
    validation = claimed_is_not_idle(),
    validation = last_claim_starts_the_idle_clock(),
)]
pub struct ClusterNodeSpec {
    /// The Cluster it belongs to. Nodes are found by the UID, never by owner reference.
    #[x_kube(validation = schema::fixed("cluster", INSTEAD))]
    pub cluster: ClusterIdentity,
    /// Its number in the Cluster, from 1; never used again.
    #[schemars(range(min = 1, max = schema::INTEGER_MAX))]
    #[x_kube(validation = schema::fixed("ordinal", INSTEAD))]
    pub ordinal: i64,
    /// The facts of its size, copied: editing a VmSize changes no live node.
    #[x_kube(validation = schema::fixed("vmSize", INSTEAD))]
    pub vm_size: VmSizeFacts,
    /// How its machine is made, copied from the class: release never needs the class.
    #[x_kube(validation = schema::fixed("engine", INSTEAD))]
    pub engine: Engine,
    /// The taint that keeps pods of others off it.
    pub taint: Taint,
    /// Tolerations its run pods need beside that of `taint`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// The attempts it is promised to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_PODS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["runUID", "attempt"])
    )]
    pub claims: Vec<Claim>,
    /// When its last claim ended. Set by the write that removes that claim, removed by the write that adds the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,
    /// Set when nothing more is given to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
    /// When it was given up: from then on its machine is destroyed. Never unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Time>,
}

/// Which Cluster, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterIdentity {
    /// Name of the Cluster; it is in the same namespace.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// UID of the Cluster.
    #[schemars(schema_with = "schema::uid")]
    pub uid: String,
}

/// The facts of a size that a node is held to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmSizeFacts {
    /// The size as the cloud writes it.
    #[schemars(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN))]
    pub size_name: String,
    /// Virtual cpus of the machine.
    #[schemars(range(min = 1, max = 4096))]
    pub vcpus: i32,
    /// Memory of the machine, as the cloud promises it.
    #[schemars(schema_with = "schema::quantity")]
    pub memory: Quantity,
    /// Accelerators the Node must allocate before runs may use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["resourceName"])
    )]
    pub accelerators: Vec<Accelerator>,
}

impl VmSizeFacts {
    /// Those of a size.
    pub fn of(size: &VmSizeSpec) -> Self {
        Self {
            size_name: size.size_name.clone(),
            vcpus: size.vcpus,
            memory: size.memory.clone(),
            accelerators: size.accelerators.clone(),
        }
    }
}

/// A share of the machine, promised to one attempt of one Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Namespace of the Run.
    #[schemars(schema_with = "schema::label_name")]
    pub run_namespace: String,
    /// Name of the Run.
    #[schemars(schema_with = "schema::name")]
    pub run_name: String,
    /// UID of the Run.
    #[serde(rename = "runUID")]
    #[schemars(schema_with = "schema::uid")]
    pub run_uid: String,
    /// Number of the attempt, from 1. 0: the claim is being taken back, and nothing is launched on it.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub attempt: i32,
    /// How much of the machine.
    pub share: Capacity,
}

impl Claim {
    /// The attempt of a claim that still holds its share of the machine, and on which nothing is launched.
    pub const OF_NO_ATTEMPT: i32 = 0;
}

closed_set! {
    /// Why nothing more is given to a node.
    RetireReason {
        /// It idled longer than the Cluster allows.
        IdleTimeout,
        /// The Cluster has more nodes than `maxNodes`.
        ScaleDown,
        /// The run it was asked for is gone, or its gang waited too long for the rest.
        NotNeeded,
        /// Somebody deleted the ClusterNode. Final.
        Deleted,
        /// Its Node is gone, or not Ready for too long. Final.
        Lost,
        /// The cloud took it back. Final.
        Preempted,
        /// It cannot be made usable. Final.
        Unusable,
        /// It never came. Final.
        Failed,
        /// Somebody wanted it gone at once, whatever runs on it.
        Removed,
        /// Its Cluster is being deleted.
        ClusterDeleted,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

impl RetireReason {
    /// Whether the node can never be taken back into use.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Deleted
            | Self::Lost
            | Self::Preempted
            | Self::Unusable
            | Self::Failed
            | Self::Removed
            | Self::Unknown => true,
            Self::IdleTimeout | Self::ScaleDown | Self::NotNeeded | Self::ClusterDeleted => false,
        }
    }
}

/// That nothing more is given to a node, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// When.
    pub time: Time,
    /// Why.
    pub reason: RetireReason,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::message")]
    pub message: String,
}

closed_set! {
    /// The state of a node: AmlCompute's words, and Failed for a machine that never came.
    NodeState {
        /// Asked for, and not yet usable by runs.
        Preparing,
        /// Usable, and used by no run.
        Idle,
        /// Used by a run.
        Running,
        /// On the way out.
        Leaving,
        /// There, and of no use to runs.
        Unusable,
        /// Taken back by the cloud.
        Preempted,
        /// Its machine never came, or is gone.
        Failed,
        /// Written by a newer version.
        #[serde(other)]
        Unknown,
    }
}

/// What is seen of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNodeStatus {
    /// Its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NodeState>,
    /// Why it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<NodeReason>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub message: Option<String>,
    /// Name of its Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub node_name: Option<String>,
    /// UID of its Node: a Node of the same name and another UID is another machine.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub node_uid: Option<String>,
    /// The cloud's identity of the machine.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub provider_id: Option<String>,
    /// UID of the backing object (NodeClaim, or the static Node), once seen: one that was seen and is gone is not made
    /// again.
    #[serde(default, rename = "machineUID", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::uid")]
    pub machine_uid: Option<String>,
    /// Zone of its Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::zone")]
    pub zone: Option<String>,
    /// What the Node allocates, less its DaemonSets and other pods that are no run's: what runs can share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Capacity>,
    /// When its machine was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_time: Option<Time>,
    /// When its machine was first seen to exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_time: Option<Time>,
    /// When its Node was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_time: Option<Time>,
    /// When runs could first use it. The idle clock starts at the later of this and `spec.idleSince`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_time: Option<Time>,
    /// Since when the Node has not been Ready, while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_since: Option<Time>,
    /// When its machine was seen to be gone, or was never made and never will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_time: Option<Time>,
    /// `Launched`, `Registered`, `AcceleratorsReady`, `SetupComplete`, `Ready`.
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

/// The reasons of [`RetireReason::is_final`].
fn final_retirement_stays() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(oldSelf.retired) || !(oldSelf.retired.reason in ['Deleted', 'Lost', 'Preempted', 'Unusable']) || \
         has(self.retired)",
    )
    .message("retired cannot be undone for the reasons Deleted, Lost, Preempted and Unusable")
    .field_path(".retired")
    .reason(kube::core::Reason::FieldValueForbidden)
}

fn claimed_is_not_idle() -> kube::core::Rule {
    kube::core::Rule::new("!has(self.idleSince) || !has(self.claims) || size(self.claims) == 0")
        .message("idleSince must be removed by the write that adds the first claim")
        .field_path(".idleSince")
}

fn last_claim_starts_the_idle_clock() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(oldSelf.claims) || size(oldSelf.claims) == 0 || (has(self.claims) && size(self.claims) > 0) || \
         has(self.idleSince)",
    )
    .message("idleSince must be set by the write that removes the last claim")
    .field_path(".idleSince")
}

fn released_is_final() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(oldSelf.released) || (has(self.released) && self.released == oldSelf.released)",
    )
    .message("released is final: the machine is being destroyed")
    .field_path(".released")
    .reason(kube::core::Reason::FieldValueForbidden)
}

/// The last line of defence of the protocol: whatever a paused or stale process writes, a released node is in no use.
fn released_has_no_claims() -> kube::core::Rule {
    kube::core::Rule::new("!has(self.released) || !has(self.claims) || size(self.claims) == 0")
        .message("a released node cannot be claimed, and a claimed node cannot be released")
        .field_path(".claims")
}
