//! `Run.spec.podTemplate`: what a Run adds to its pods. A subset of a pod's own fields, with their names, and bounded.
//!
//! What contradicts itself or what trainyard makes is refused, never merged: a Run that is accepted has all of it.
//!
//! * [`volume`]: volumes, and where containers see them.
//! * [`security`]: under whom containers run, and what they may do.

// The fields of `EnvVarSource` are named as in a pod.
#![allow(clippy::struct_field_names)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::amount;
use crate::run::ImagePullPolicy;
use crate::schema;

pub mod security;
pub mod volume;

pub use security::{ContainerSecurityContext, PodSecurityContext};
pub use volume::{RESERVED_PATH, RESERVED_PREFIX, Volume, VolumeMount};

/// Name of the container that runs the training.
pub const MAIN_CONTAINER: &str = "main";

/// Additions to a Run's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = schema::at_creation(mounted_volumes_exist()),
    validation = schema::at_creation(volumes_of_sidecars_exist()),
)]
pub struct PodTemplate {
    /// Environment variables whose value comes from elsewhere, at most 100. None may be in `environment`, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub env: Vec<EnvVar>,
    /// Annotations by key, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    #[x_kube(validation = annotations_are_not_ours())]
    pub annotations: BTreeMap<String, String>,
    /// Volumes, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub volumes: Vec<Volume>,
    /// Where the Run's container sees them, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mountPath"])
    )]
    pub volume_mounts: Vec<VolumeMount>,
    /// Under whom all containers of a pod run. That of the Run's container alone is `container.securityContext`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// The ServiceAccount of the pods, in the Run's namespace; absent, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub service_account_name: Option<String>,
    /// True: the containers get a token of the ServiceAccount for the API server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automount_service_account_token: bool,
    /// The RuntimeClass of the pods, one without overhead; absent, the node's own runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub runtime_class_name: Option<String>,
    /// Containers beside the Run's in every pod, at most 8. They start before it, one after the other, and are stopped
    /// after it. They decide nothing: one that exits is started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sidecars: Vec<Sidecar>,
}

/// A container beside the Run's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = sidecar_is_not_ours())]
pub struct Sidecar {
    /// Its name, other than `main`.
    #[schemars(schema_with = "schema::label_name")]
    pub name: String,
    /// The image, with registry and tag or digest.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[^\\s]+$"))]
    pub image: String,
    /// When the image is pulled; absent, Kubernetes' own rule: always for `:latest`, else if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// The program and its first arguments; absent, the image's entry point. No shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::words")]
    pub command: Vec<String>,
    /// Further arguments; absent, with no `command` either, the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::words")]
    pub args: Vec<String>,
    /// Its environment variables, at most 32. Those of the Run's container are not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub env: Vec<EnvVar>,
    /// Where it sees volumes, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mountPath"])
    )]
    pub volume_mounts: Vec<VolumeMount>,
    /// Under whom it runs, and what it may do; absent, as the image and `podTemplate.securityContext` say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<ContainerSecurityContext>,
    /// What it takes of its process's share of the node.
    pub resources: SidecarResources,
}

/// What a sidecar takes of its process's share of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = memory_has_a_unit())]
pub struct SidecarResources {
    /// Cpu, as `250m`. It may use more while nobody else needs it.
    #[schemars(schema_with = "amount")]
    pub cpu: IntOrString,
    /// Memory, as `256Mi`; with more it is killed and started again.
    #[schemars(schema_with = "amount")]
    pub memory: IntOrString,
}

/// One environment variable, as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = value_or_value_from())]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where a value comes from: exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = one_source())]
pub struct EnvVarSource {
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
    /// A field of the pod, as `status.podIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
}

/// A key of a Secret or ConfigMap in the Run's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// The key.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._A-Za-z0-9]+$"))]
    pub key: String,
    /// True: the variable is left out when object or key are missing. Otherwise the pod waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A field of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldRef {
    /// The field, as `metadata.name`.
    #[schemars(length(min = 1, max = 256))]
    pub field_path: String,
}

/// Keys of our own domain say things about a pod that only trainyard knows.
fn annotations_are_not_ours() -> Rule {
    Rule::new("self.all(key, !key.startsWith('trainyard.dev/'))")
        .message("annotations under trainyard.dev/ are trainyard's own")
}

fn value_or_value_from() -> Rule {
    Rule::new("has(self.value) != has(self.valueFrom)")
        .message("a variable of podTemplate.env must have exactly one of value and valueFrom")
}

fn one_source() -> Rule {
    Rule::new(
        "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)].filter(x, x).size() == 1",
    )
    .message("valueFrom must have exactly one of secretKeyRef, configMapKeyRef and fieldRef")
}

fn mounted_volumes_exist() -> Rule {
    let exists = "has(self.volumes) && self.volumes.exists(volume, volume.name == mount.name)";
    Rule::new(format!("!has(self.volumeMounts) || self.volumeMounts.all(mount, {exists})"))
        .message("each of podTemplate.volumeMounts must name one of podTemplate.volumes")
        .field_path(".volumeMounts")
}

fn volumes_of_sidecars_exist() -> Rule {
    let exists = "has(self.volumes) && self.volumes.exists(volume, volume.name == mount.name)";
    Rule::new(format!(
        "!has(self.sidecars) || self.sidecars.all(sidecar, !has(sidecar.volumeMounts) || \
         sidecar.volumeMounts.all(mount, {exists}))"
    ))
    .message("each of a sidecar's volumeMounts must name one of podTemplate.volumes")
    .field_path(".sidecars")
}

fn sidecar_is_not_ours() -> Rule {
    Rule::new(format!("self.name != '{MAIN_CONTAINER}' && !self.name.startsWith('{RESERVED_PREFIX}')"))
        .message(
            "main, and names that begin with trainyard-, are trainyard's own: name the sidecar otherwise",
        )
        .field_path(".name")
}

/// `memory: 256` would mean 256 bytes, and nobody means that.
fn memory_has_a_unit() -> Rule {
    Rule::new("quantity(string(self.memory)).compareTo(quantity('1Mi')) >= 0")
        .message("memory of a sidecar must be at least 1Mi; a number without a unit is bytes, write 256Mi")
        .field_path(".memory")
}
