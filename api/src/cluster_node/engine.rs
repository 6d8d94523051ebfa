//! What an engine makes or takes a machine by.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::placement::{NodeClassRef, Requirement};
use crate::schema;
use crate::vm_size::SIZE_NAME_PATTERN;

/// How the machine is made: exactly one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// As a Karpenter NodeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub karpenter: Option<KarpenterNode>,
    /// As a Node that is there already.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_node: Option<StaticNode>,
}

/// Which Nodes it may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticNode {
    /// Labels it must have.
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
}

/// All that a NodeClaim is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KarpenterNode {
    /// Karpenter's own object with subnets, VM image and operating system.
    pub node_class_ref: NodeClassRef,
    /// The class's further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub requirements: Vec<Requirement>,
    /// Value of `node.kubernetes.io/instance-type`.
    #[schemars(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN))]
    pub instance_type: String,
    /// Value of `karpenter.sh/capacity-type`.
    pub capacity_type: CapacityType,
    /// Values of `topology.kubernetes.io/zone` it may be in; none means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::zones")]
    pub zones: Vec<String>,
    /// `spec.resources.requests`: below what the machine will allocate, or no instance type fits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, Quantity>,
}

closed_set! {
    /// Karpenter's capacity types.
    CapacityType {
        /// Kept: `vmPriority: Dedicated`.
        OnDemand = "on-demand",
        /// May be taken back: `vmPriority: LowPriority`.
        Spot = "spot",
    }
}
