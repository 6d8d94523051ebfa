//! `ProvisioningClass`: which engine makes a Cluster's machines, and how; for machines what StorageClass is for disks.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::cluster::MAX_NODES;
use crate::names;
use crate::placement::{NodeClassRef, Requirement, TaintEffect, Toleration};
use crate::schema;
use crate::tenancy::NamespaceSelector;
use crate::vm_size::SIZE_NAME_PATTERN;

/// Which engine makes machines, and how.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "ProvisioningClass",
    plural = "provisioningclasses",
    shortname = "typc",
    category = "trainyard",
    derive = "PartialEq",
    doc = "Which engine makes the machines of Clusters, and how. The class of Clusters that name none carries the annotation trainyard.dev/is-default-class: \"true\".",
    printcolumn(
        name = "Default",
        type_ = "string",
        json_path = ".metadata.annotations.trainyard\\.dev/is-default-class"
    ),
    printcolumn(name = "NodeClass", type_ = "string", json_path = ".spec.karpenter.nodeClassRef.name"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".spec.placement.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = exactly_one_engine(),
    validation = engine_stays(),
    validation = found_machines_are_where_they_are(),
)]
pub struct ProvisioningClassSpec {
    /// Machines are Karpenter NodeClaims that belong to no NodePool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub karpenter: Option<KarpenterEngine>,
    /// Machines are Nodes that are there already: they are taken for a Cluster, and given back as they were found.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_nodes: Option<StaticEngine>,
    /// The taint of every machine, which keeps pods of others off it. New machines only.
    #[serde(default)]
    pub taint: ClassTaint,
    /// Tolerations of run pods, for taints the machines have beside ours. New machines only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Where machines may be.
    #[serde(default)]
    pub placement: Placement,
    /// Namespaces whose Clusters may use this class; absent, all. Withdrawn, it stops new machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<NamespaceSelector>,
    /// Sizes of machines, by `sizeName` or alias of their VmSize, at most 64; absent, all. Withdrawn, it stops new machines
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "allowed_sizes")]
    pub allowed_sizes: Option<Vec<String>>,
    /// Most machines of one Cluster, 0 to 1000, whatever its `maxNodes`; absent, as many as that. Lowered, it stops new machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_NODES))]
    pub max_nodes_per_cluster: Option<i32>,
    /// Most machines of all Clusters of one namespace that use this class, 0 to 100000. Lowered, it stops new machines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_nodes_per_namespace: Option<i32>,
}

fn allowed_sizes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": SIZE_NAME_PATTERN},
        "x-kubernetes-list-type": "set",
    })
}

/// How Karpenter makes the machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KarpenterEngine {
    /// Karpenter's own object with subnets, VM image and operating system.
    pub node_class_ref: NodeClassRef,
    /// Further requirements of every NodeClaim. Instance type, zone, capacity type and host name are trainyard's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = requirements_are_not_ours())]
    pub requirements: Vec<Requirement>,
}

/// Which Nodes may be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticEngine {
    /// Labels of the Nodes that may be taken, all of them, as in a pod's nodeSelector. New machines only.
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
}

/// The taint of a class's machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassTaint {
    /// Key of the taint.
    #[serde(default = "taint_key")]
    #[schemars(schema_with = "schema::qualified_name")]
    pub key: String,
    /// Value of the taint; the Cluster's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_value")]
    pub value: Option<String>,
    /// What it does to pods of others.
    #[serde(default)]
    pub effect: TaintEffect,
}

impl Default for ClassTaint {
    fn default() -> Self {
        Self { key: taint_key(), value: None, effect: TaintEffect::default() }
    }
}

fn taint_key() -> String {
    names::TAINT_KEY.to_owned()
}

closed_set! {
    /// Whether a Cluster's machines must be near each other.
    #[derive(Default)]
    PlacementMode {
        /// Each machine in any zone.
        #[default]
        Any,
        /// All machines of a Cluster in one zone: while it has no node, the first one not backed off is chosen.
        SameZone,
    }
}

/// Where machines may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = same_zone_names_zones())]
pub struct Placement {
    /// Whether all machines of a Cluster are in one zone.
    #[serde(default)]
    pub mode: PlacementMode,
    /// The zones allowed, in order of preference, as in the label `topology.kubernetes.io/zone`; none means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::zones")]
    pub zones: Vec<String>,
}

fn exactly_one_engine() -> kube::core::Rule {
    kube::core::Rule::new("has(self.karpenter) != has(self.static)")
        .message("exactly one engine is needed: write karpenter or static")
}

/// A Cluster keeps its class by name, and what it asks for must go on meaning the same.
fn engine_stays() -> kube::core::Rule {
    kube::core::Rule::new("has(self.karpenter) == has(oldSelf.karpenter)")
        .message("the engine cannot be changed: create another ProvisioningClass")
        .reason(kube::core::Reason::FieldValueForbidden)
}

/// Which zone a machine is in cannot be asked for where machines are found: only the selector chooses.
fn found_machines_are_where_they_are() -> kube::core::Rule {
    kube::core::Rule::new(
        "!has(self.static) || !has(self.placement) || (self.placement.mode == 'Any' && \
         (!has(self.placement.zones) || size(self.placement.zones) == 0))",
    )
    .message("placement is for machines that are made: with static, write topology.kubernetes.io/zone into nodeSelector")
    .field_path(".placement")
}

/// Karpenter itself refuses the other keys of its domain and the host name.
fn requirements_are_not_ours() -> kube::core::Rule {
    kube::core::Rule::new(
        "self.all(r, !r.key.startsWith('karpenter.sh/') && !(r.key in ['node.kubernetes.io/instance-type', \
         'topology.kubernetes.io/zone', 'kubernetes.io/hostname']))",
    )
    .message(
        "requirements must not name the instance type, the zone, the host name or a karpenter.sh label: \
         they follow from the Cluster's vmSize and vmPriority and from placement.zones",
    )
}

fn same_zone_names_zones() -> kube::core::Rule {
    kube::core::Rule::new("self.mode != 'SameZone' || (has(self.zones) && size(self.zones) > 0)")
        .message("placement.mode SameZone needs placement.zones, the zones to choose from")
}

impl ProvisioningClass {
    /// Whether Clusters that name no class get this one.
    pub fn is_default(&self) -> bool {
        self.metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(names::annotations::IS_DEFAULT_CLASS))
            .is_some_and(|value| value == "true")
    }
}
