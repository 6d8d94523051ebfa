//! Karpenter's objects as far as trainyard touches them, `karpenter.sh/v1`.
//!
//! Fields that are neither written nor read are left out: a NodeClaim is created from these types, and never written
//! back from them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Taint,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// API group of NodeClaims and NodePools.
pub const GROUP: &str = "karpenter.sh";
/// Label that names the NodePool. Ours names none that exists: Azure's provider lists only machines that carry it, and
/// Karpenter counts health by it; consolidation and drift touch only machines whose NodePool exists.
pub const NODE_POOL_LABEL: &str = "karpenter.sh/nodepool";
/// Requirement key: spot or on-demand.
pub const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
/// Requirement key: the size.
pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Requirement key: the operating system.
pub const OS: &str = "kubernetes.io/os";
/// Requirement and Node label key: the zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation that keeps Karpenter's voluntary disruption away.
pub const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// Annotation with the instant after which a drain is not waited for. Karpenter keeps a value that is there.
pub const TERMINATION_TIME: &str = "karpenter.sh/nodeclaim-termination-timestamp";

/// What one machine shall be. Immutable once made.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "karpenter.sh",
    version = "v1",
    kind = "NodeClaim",
    plural = "nodeclaims",
    status = "NodeClaimStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimSpec {
    /// Conditions on the machine.
    #[serde(default)]
    pub requirements: Vec<ClaimRequirement>,
    /// The provider's own object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_class_ref: Option<ClaimClassRef>,
    /// What the machine must allocate; also what Karpenter waits for before it calls the Node initialized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ClaimResources>,
    /// Taints of the Node from its first moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// When Karpenter removes it by itself; absent means after 720h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<String>,
}

/// One condition on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequirement {
    /// Label key.
    pub key: String,
    /// How it is compared.
    pub operator: String,
    /// With what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// The provider's own object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimClassRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// What a machine must allocate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimResources {
    /// By resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
}

/// What Karpenter found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimStatus {
    /// Name of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The cloud's identity of the machine.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// `Launched`, `Registered`, `Initialized`, `Ready`, and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ClaimCondition>,
}

/// One condition of a NodeClaim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimCondition {
    /// Which.
    pub r#type: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// Why, in one word.
    #[serde(default)]
    pub reason: String,
    /// Why, in a sentence.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

impl NodeClaimStatus {
    /// The condition of that type.
    pub fn condition(&self, kind: &str) -> Option<&ClaimCondition> {
        self.conditions.iter().find(|condition| condition.r#type == kind)
    }

    /// Whether the condition of that type is True.
    pub fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == "True")
    }
}
