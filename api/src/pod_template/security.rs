//! Under whom a Run's containers run, and what they may do: the part of a pod's security contexts that Pod Security
//! looks at, less what would make a container part of its machine.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;

/// Largest user or group.
const ID_MAX: i64 = 2_147_483_647;

/// For all containers of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = not_root_as_root())]
pub struct PodSecurityContext {
    /// User, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = ID_MAX))]
    pub run_as_user: Option<i64>,
    /// Group, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = ID_MAX))]
    pub run_as_group: Option<i64>,
    /// True: a container that would run as root is not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// Group that owns the volumes, where their kind has owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = ID_MAX))]
    pub fs_group: Option<i64>,
    /// When the owner of a volume is changed; absent, always, which takes long for many files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_group_change_policy: Option<FsGroupChangePolicy>,
    /// Further groups, by number, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "groups")]
    pub supplemental_groups: Vec<i64>,
    /// System calls that are let through; absent, the node's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
}

/// For one container; what is written here counts before what the pod says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = not_root_as_root())]
pub struct ContainerSecurityContext {
    /// User, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = ID_MAX))]
    pub run_as_user: Option<i64>,
    /// Group, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = ID_MAX))]
    pub run_as_group: Option<i64>,
    /// True: it is not started if it would run as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// True: it can write to volumes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// False: no process in it gains more rights than its parent. Pod Security `restricted` wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_privilege_escalation: Option<bool>,
    /// Rights of root, one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// System calls that are let through; absent, the pod's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
}

closed_set! {
    /// When the owner of a volume is changed to `fsGroup`.
    FsGroupChangePolicy {
        /// If that of its top directory is another one.
        OnRootMismatch,
        /// Always.
        Always,
    }
}

/// Rights of root, as `IPC_LOCK`, which RDMA needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Those it has besides the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "capabilities")]
    pub add: Vec<String>,
    /// Those it does not have; `ALL` for all that are not added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "capabilities")]
    pub drop: Vec<String>,
}

/// Which system calls are let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = profile_is_whole())]
pub struct SeccompProfile {
    /// Whose list it is.
    pub r#type: SeccompType,
    /// With `Localhost`: the file, below the kubelet's folder for such profiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[^/:][^:]*$"))]
    pub localhost_profile: Option<String>,
}

closed_set! {
    /// Whose list of system calls it is.
    SeccompType {
        /// That of the container runtime.
        RuntimeDefault,
        /// A file on the machine.
        Localhost,
        /// None: all are let through.
        Unconfined,
    }
}

fn groups(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {"type": "integer", "format": "int64", "minimum": 0, "maximum": ID_MAX},
        "x-kubernetes-list-type": "set",
    })
}

fn capabilities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {"type": "string", "minLength": 1, "maxLength": 32, "pattern": "^[A-Z][A-Z0-9_]*$"},
        "x-kubernetes-list-type": "set",
    })
}

/// A kubelet finds out only when the machine is paid for.
fn not_root_as_root() -> Rule {
    Rule::new("!(has(self.runAsNonRoot) && self.runAsNonRoot && has(self.runAsUser) && self.runAsUser == 0)")
        .message("runAsNonRoot and runAsUser 0, which is root, contradict each other: take one of them out")
}

fn profile_is_whole() -> Rule {
    Rule::new("(self.type == 'Localhost') == has(self.localhostProfile)")
        .message("a seccompProfile has a localhostProfile with type Localhost, and only then")
}
