//! `VmSize`: facts about a size of machine. Shipped for the sizes of Azure, and for those with accelerators of AWS and Google
//! Cloud; an administrator may add others.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::conditions::Condition;
use crate::schema;

/// Pattern of `sizeName` and of aliases: what clouds use, in any case.
pub const SIZE_NAME_PATTERN: &str = "^[A-Za-z][-A-Za-z0-9_.]*$";

/// Facts about a size of machine.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "trainyard.dev",
    version = "v1alpha1",
    kind = "VmSize",
    plural = "vmsizes",
    shortname = "tyvm",
    category = "trainyard",
    status = "VmSizeStatus",
    derive = "PartialEq",
    doc = "Facts about a size of machine, found by Clusters through sizeName or an alias.",
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.sizeName"),
    printcolumn(name = "Family", type_ = "string", json_path = ".spec.family"),
    printcolumn(name = "vCPUs", type_ = "integer", json_path = ".spec.vcpus"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "Count", type_ = "integer", json_path = ".spec.accelerators[0].count"),
    printcolumn(name = "Accelerator", type_ = "string", json_path = ".spec.accelerators[0].product"),
    printcolumn(name = "Successor", type_ = "string", json_path = ".spec.retired.successor"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    validation = object_name_rule()
)]
#[serde(rename_all = "camelCase")]
pub struct VmSizeSpec {
    /// The name as the cloud writes it, `Standard_NC6s_v3` or `p4d.24xlarge`: this text is sent to the engine. Clusters
    /// may write it in any case.
    #[schemars(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN))]
    pub size_name: String,
    /// Other names that mean this size, in any case. No two VmSizes may claim one name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub aliases: Vec<String>,
    /// The cloud's family, for which it counts quota in vCPUs: `standardNCSv3Family`, `G and VT`, `A3`.
    #[schemars(length(min = 1, max = 63))]
    pub family: String,
    /// Virtual cpus of the machine.
    #[schemars(range(min = 1, max = 4096))]
    pub vcpus: i32,
    /// Memory of the machine, as the cloud promises it: `112Gi`. What runs can use is less.
    #[schemars(schema_with = "schema::quantity")]
    pub memory: Quantity,
    /// Accelerators of the machine; none for a size that has only cpus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["resourceName"])
    )]
    pub accelerators: Vec<Accelerator>,
    /// Whether the cloud sells it at low priority, too.
    #[serde(default)]
    pub spot_capable: bool,
    /// The instance type where an engine knows the size by another name than `sizeName`: engine (`karpenter`) to type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "instance_types")]
    pub instance_types: BTreeMap<String, String>,
    /// Set when the cloud sells it no more: a Cluster that names it is told the successor and gets no machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<RetiredSize>,
    /// Where the facts come from, and anything an administrator should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub notes: Option<String>,
}

/// One kind of accelerator of a size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// The resource its device plugin makes allocatable: `nvidia.com/gpu`, `amd.com/gpu`.
    #[schemars(schema_with = "schema::qualified_name")]
    pub resource_name: String,
    /// How many the node allocates. A fraction of a physical device counts as one.
    #[schemars(range(min = 1, max = 64))]
    pub count: i32,
    /// What it is: `V100`, `A100-80GB`, `MI300X`.
    #[schemars(length(min = 1, max = 63))]
    pub product: String,
}

/// The end of a size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetiredSize {
    /// The day from which it is sold no more: `2023-09-06`.
    #[schemars(length(min = 10, max = 10), regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub since: String,
    /// `sizeName` of the size to use instead.
    #[schemars(length(min = 1, max = 63), regex(pattern = SIZE_NAME_PATTERN))]
    pub successor: String,
}

/// What trainyard has found out about a VmSize.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmSizeStatus {
    /// Whether Clusters can use it. Stalled when another VmSize claims one of its names.
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

/// The object name of a size: its name in lower case with dashes for underscores, `standard-nc6s-v3`. A dot stays, as in
/// `p4d.24xlarge`: object names may have them.
pub fn object_name(size_name: &str) -> String {
    size_name.to_ascii_lowercase().replace('_', "-")
}

fn object_name_rule() -> kube::core::Rule {
    kube::core::Rule::new("self.metadata.name == self.spec.sizeName.lowerAscii().replace('_', '-')").message(
        "the name of a VmSize must be its sizeName in lower case with '-' for '_': \
         standard-nc6s-v3 for Standard_NC6s_v3",
    )
}

fn instance_types(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": SIZE_NAME_PATTERN},
    })
}

impl VmSizeSpec {
    /// Whether `asked`, in any case, is this size's name or one of its aliases.
    pub fn answers_to(&self, asked: &str) -> bool {
        std::iter::once(&self.size_name).chain(&self.aliases).any(|name| name.eq_ignore_ascii_case(asked))
    }

    /// The name under which that engine knows the size.
    pub fn instance_type(&self, engine: &str) -> &str {
        self.instance_types.get(engine).unwrap_or(&self.size_name)
    }
}
