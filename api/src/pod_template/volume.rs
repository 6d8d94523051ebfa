//! Volumes of a Run's pods, and where containers see them: a subset of a pod's, with the pod's names.

// The fields are named as in a pod.
#![allow(clippy::struct_field_names)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::capacity::amount;
use crate::closed_set::closed_set;
use crate::schema;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Names of volumes and containers that begin so are trainyard's own.
pub const RESERVED_PREFIX: &str = "trainyard-";
/// What is mounted here and below is trainyard's own.
pub const RESERVED_PATH: &str = "/trainyard";

/// Absolute, and written in one way only: no colon, no empty, `.` or `..` part, no slash at the end.
const PATH_PATTERN: &str = r"^(/([^/:.]|\.[^/:.]|\.\.[^/:])[^/:]*)+$";
/// The same below a volume.
const SUB_PATH_PATTERN: &str = r"^([^/:.]|\.[^/:.]|\.\.[^/:])[^/:]*(/([^/:.]|\.[^/:.]|\.\.[^/:])[^/:]*)*$";

/// A volume of every pod: a name, and exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = one_source(), validation = volume_is_not_ours())]
pub struct Volume {
    /// Its name, for `volumeMounts`.
    #[schemars(schema_with = "schema::label_name")]
    pub name: String,
    /// An empty directory that goes with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// The keys of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFiles>,
    /// The keys of a Secret as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretFiles>,
    /// A PersistentVolumeClaim. All pods of the Run use the same one: on several nodes it must be `ReadWriteMany`, or be
    /// only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimedVolume>,
    /// A volume that a CSI driver makes for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiVolume>,
    /// A directory of an NFS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsVolume>,
    /// Several ConfigMaps, Secrets and tokens in one directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<ProjectedVolume>,
    /// A file or directory of the machine. Pod Security `baseline` and `restricted` refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
}

/// An empty directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// `Memory`: it is memory, and what is in it counts as memory of the container that wrote it. Absent: the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<EmptyDirMedium>,
    /// Most it may hold, as `16Gi`. A pod that writes more is evicted, by its own fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "amount")]
    pub size_limit: Option<IntOrString>,
}

closed_set! {
    /// What an empty directory is on.
    EmptyDirMedium {
        /// Memory.
        Memory,
    }
}

/// A ConfigMap as files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapFiles {
    /// Name of the ConfigMap, in the Run's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Which keys, and as which files; absent, all by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "items")]
    pub items: Vec<KeyToPath>,
    /// Permissions of the files as a decimal number, 0 to 511; absent, 420, which is 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<i32>,
    /// True: the directory is empty when the ConfigMap or a key is missing. Otherwise the pod waits for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A Secret as files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretFiles {
    /// Name of the Secret, in the Run's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
    /// Which keys, and as which files; absent, all by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "items")]
    pub items: Vec<KeyToPath>,
    /// Permissions of the files as a decimal number, 0 to 511; absent, 420, which is 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<i32>,
    /// True: the directory is empty when the Secret or a key is missing. Otherwise the pod waits for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A key and the file it becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyToPath {
    /// The key.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._A-Za-z0-9]+$"))]
    pub key: String,
    /// The file, below the directory.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUB_PATH_PATTERN))]
    pub path: String,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedVolume {
    /// Its name, in the Run's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub claim_name: String,
    /// True: attached for reading only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A volume that a CSI driver makes for the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CsiVolume {
    /// Name of the driver, as `blob.csi.azure.com`. It must be one for ephemeral volumes.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$"))]
    pub driver: String,
    /// True: for reading only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// File system, as the driver calls it; absent, the driver's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub fs_type: Option<String>,
    /// What the driver wants to know, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "attributes")]
    pub volume_attributes: BTreeMap<String, String>,
    /// The Secret with the driver's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_publish_secret_ref: Option<SecretName>,
}

/// A Secret of the Run's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// A directory of an NFS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NfsVolume {
    /// Host name or address of the server.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[^\\s/]+$"))]
    pub server: String,
    /// The directory that it exports.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub path: String,
    /// True: for reading only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Several sources in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectedVolume {
    /// The sources, at most 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub sources: Vec<ProjectedSource>,
    /// Permissions of the files as a decimal number, 0 to 511; absent, 420, which is 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub default_mode: Option<i32>,
}

/// Exactly one source of a projected volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = one_projected_source())]
pub struct ProjectedSource {
    /// The keys of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ProjectedKeys>,
    /// The keys of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ProjectedKeys>,
    /// A token of the pod's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_token: Option<ProjectedToken>,
}

/// Keys of a ConfigMap or Secret in a projected volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectedKeys {
    /// Name of the object, in the Run's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Which keys, and as which files; absent, all by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "items")]
    pub items: Vec<KeyToPath>,
    /// True: the object or a key may be missing. Otherwise the pod waits for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A token in a projected volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectedToken {
    /// The file, below the directory.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUB_PATH_PATTERN))]
    pub path: String,
    /// Whom it is for; absent, the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub audience: Option<String>,
    /// How long it is valid, in seconds, 600 to 86400; absent, 3600. It is renewed in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 600, max = 86_400))]
    pub expiration_seconds: Option<i64>,
}

/// A file or directory of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// The path on the machine.
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH_PATTERN))]
    pub path: String,
    /// What must be there; absent, it is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<HostPathType>,
}

closed_set! {
    /// What must be at a path of the machine.
    HostPathType {
        /// A directory; made if nothing is there.
        DirectoryOrCreate,
        /// A directory.
        Directory,
        /// A file; made if nothing is there.
        FileOrCreate,
        /// A file.
        File,
        /// A UNIX socket.
        Socket,
        /// A character device.
        CharDevice,
        /// A block device.
        BlockDevice,
    }
}

/// Where a container sees a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = path_is_not_ours())]
pub struct VolumeMount {
    /// Name of the volume, in `podTemplate.volumes`.
    #[schemars(schema_with = "schema::label_name")]
    pub name: String,
    /// Path in the container, written without `..` and without a slash at the end.
    #[schemars(length(min = 2, max = 512), regex(pattern = PATH_PATTERN))]
    pub mount_path: String,
    /// Only this path of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = SUB_PATH_PATTERN))]
    pub sub_path: Option<String>,
    /// True: the container cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

impl Volume {
    /// How many sources are written.
    pub fn sources(&self) -> usize {
        // No `..`: a new source must be counted.
        let Self {
            name: _,
            empty_dir,
            config_map,
            secret,
            persistent_volume_claim,
            csi,
            nfs,
            projected,
            host_path,
        } = self;
        let written = [
            empty_dir.is_some(),
            config_map.is_some(),
            secret.is_some(),
            persistent_volume_claim.is_some(),
            csi.is_some(),
            nfs.is_some(),
            projected.is_some(),
            host_path.is_some(),
        ];
        written.into_iter().filter(|one| *one).count()
    }
}

fn items(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": generator.subschema_for::<KeyToPath>(),
        "x-kubernetes-list-type": "atomic",
    })
}

fn attributes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

fn one_source() -> Rule {
    Rule::new(
        "[has(self.emptyDir), has(self.configMap), has(self.secret), has(self.persistentVolumeClaim), has(self.csi), \
         has(self.nfs), has(self.projected), has(self.hostPath)].filter(x, x).size() == 1",
    )
    .message(
        "a volume must have exactly one of emptyDir, configMap, secret, persistentVolumeClaim, csi, nfs, projected and \
         hostPath",
    )
}

fn volume_is_not_ours() -> Rule {
    Rule::new(format!("!self.name.startsWith('{RESERVED_PREFIX}')"))
        .message("volumes whose names begin with trainyard- are trainyard's own: name it otherwise")
        .field_path(".name")
}

fn one_projected_source() -> Rule {
    Rule::new(
        "[has(self.configMap), has(self.secret), has(self.serviceAccountToken)].filter(x, x).size() == 1",
    )
    .message("a source must have exactly one of configMap, secret and serviceAccountToken")
}

fn path_is_not_ours() -> Rule {
    Rule::new(format!(
        "self.mountPath != '{RESERVED_PATH}' && !self.mountPath.startsWith('{RESERVED_PATH}/')"
    ))
    .message("what is mounted at /trainyard and below is trainyard's own: mount it elsewhere")
    .field_path(".mountPath")
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn a_path_is_written_in_one_way_only() {
        let path = Regex::new(PATH_PATTERN).expect("a pattern");
        for good in ["/data", "/data/a b/.hidden/..x/...", "/a/b.c", "/dev/shm"] {
            assert!(path.is_match(good), "{good}");
        }
        for bad in ["/", "data", "/data/", "//data", "/data//x", "/data/.", "/data/../x", "/..", "/a:b", ""] {
            assert!(!path.is_match(bad), "{bad}");
        }
    }

    #[test]
    fn a_path_below_a_volume_never_leaves_it() {
        let path = Regex::new(SUB_PATH_PATTERN).expect("a pattern");
        for good in ["data", "data/a b", ".hidden/x", "..data"] {
            assert!(path.is_match(good), "{good}");
        }
        for bad in ["/data", "data/", "..", ".", "a/..", "a/../b", "a//b", "a:b", ""] {
            assert!(!path.is_match(bad), "{bad}");
        }
    }
}
