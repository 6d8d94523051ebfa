//! Where a Run wants to run: its Cluster, and the size of the machines.

use kube::ResourceExt as _;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster_node::ClusterIdentity;
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
}

impl ClusterFacts {
    /// Reduces a Cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let id = ClusterIdentity { name: cluster.name_any(), uid: cluster.uid().unwrap_or_default() };
        Self {
            key: ObjectKey::of(cluster),
            id,
            vm_size: cluster.spec.vm_size.clone(),
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
