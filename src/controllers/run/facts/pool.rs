//! Where a Run wants to run: its Cluster, and the size of the machines.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterIdentity;
use trainyard_api::tenancy::NamespaceSelector;
use trainyard_api::{Cluster, VmSize};
use trainyard_model::run::acceptance;

use crate::kubernetes::key::ObjectKey;

/// A Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Name and UID.
    pub id: ClusterIdentity,
    /// The size of its machines, as its user wrote it.
    pub vm_size: String,
    /// What a node of it was last measured to have for runs.
    pub node_capacity: Option<Capacity>,
    /// Whose Runs may name it, besides those of its own namespace.
    pub allowed_namespaces: Option<NamespaceSelector>,
}

impl ClusterFacts {
    /// Whether Runs of `namespace`, which has these labels as far as known, may use it.
    pub fn lets_in(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let allowed = self.allowed_namespaces.as_ref();
        namespace == self.key.namespace
            || allowed.zip(labels).is_some_and(|(allowed, labels)| allowed.selects(labels))
    }

    /// Reduces a Cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let id = ClusterIdentity { name: cluster.name_any(), uid: cluster.uid().unwrap_or_default() };
        Self {
            key: ObjectKey::of(cluster),
            id,
            vm_size: cluster.spec.vm_size.clone(),
            allowed_namespaces: cluster.spec.allowed_namespaces.clone(),
            node_capacity: cluster.status.as_ref().and_then(|status| status.node_capacity.clone()),
        }
    }
}

/// A VmSize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeFacts {
    /// Its name and aliases.
    pub names: Vec<String>,
    /// What a machine of it has.
    pub capacity: Capacity,
}

impl SizeFacts {
    /// Reduces a VmSize.
    pub fn of(size: &VmSize) -> Self {
        let spec = &size.spec;
        Self {
            names: std::iter::once(&spec.size_name).chain(&spec.aliases).cloned().collect(),
            capacity: acceptance::promised(spec.vcpus, &spec.memory, &spec.accelerators),
        }
    }

    /// Whether a Cluster that asks for this size means this one.
    pub fn answers_to(&self, asked: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(asked))
    }
}
