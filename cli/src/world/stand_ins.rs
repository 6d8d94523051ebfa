//! What an API server would have set, for objects that never met one: UIDs, creation times, generated names. The same
//! for the same files in the same order.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trainyard_api::capacity::Capacity;
use trainyard_api::cluster::EngineKind;
use trainyard_api::cluster_node::VmSizeFacts;
use trainyard_api::names::annotations;
use trainyard_api::placement::NodeClassRef;
use trainyard_api::provisioning_class::{
    KarpenterEngine, Placement, PlacementMode, ProvisioningClassSpec, StaticEngine,
};
use trainyard_api::vm_size::{Accelerator, VmSizeSpec};
use trainyard_api::{Cluster, ClusterNode, ProvisioningClass, Time, VmSize};
use trainyard_model::catalogue;

use crate::words::counted;

/// The name of a class that nobody gave and no Cluster names.
const ASSUMED_CLASS: &str = "default";

/// Fills in, and remembers what it filled in.
pub struct StandIns {
    now: Timestamp,
    uids: u32,
    runs_created: u32,
    names: u32,
    /// The class that was made up.
    pub class: Option<String>,
    /// Runs that were taken as accepted.
    pub accepted: usize,
}

impl StandIns {
    /// Objects without a creation time were created at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now, uids: 0, runs_created: 0, names: 0, class: None, accepted: 0 }
    }

    /// Clusters; one without a UID is the one whose nodes are given, if those agree on it.
    pub fn of_clusters(&mut self, clusters: &mut [Cluster], nodes: &[ClusterNode]) {
        for cluster in clusters {
            let metadata = &mut cluster.metadata;
            if metadata.uid.is_none() {
                let named: BTreeSet<&String> = nodes
                    .iter()
                    .filter(|node| node.metadata.namespace == metadata.namespace)
                    .filter(|node| Some(&node.spec.cluster.name) == metadata.name.as_ref())
                    .map(|node| &node.spec.cluster.uid)
                    .collect();
                if let (Some(uid), 1) = (named.first(), named.len()) {
                    metadata.uid = Some((*uid).clone());
                }
            }
            self.of_object(metadata);
        }
    }

    /// Any object.
    pub fn of_object(&mut self, metadata: &mut ObjectMeta) {
        if metadata.uid.is_none() {
            self.uids += 1;
            metadata.uid = Some(format!("00000000-0000-0000-0000-{:012}", self.uids));
        }
        metadata.resource_version.get_or_insert_with(|| "0".to_owned());
        metadata.creation_timestamp.get_or_insert(Time(self.now));
    }

    /// A Run. Those without a creation time come after all others, in the order of the files.
    pub fn of_run(&mut self, metadata: &mut ObjectMeta) {
        if metadata.name.is_none() {
            self.names += 1;
            let prefix = metadata.generate_name.as_deref().unwrap_or_default();
            metadata.name = Some(format!("{prefix}{:05}", self.names));
        }
        if metadata.creation_timestamp.is_none() {
            // Too short a time to be seen, long enough to keep the order.
            let later = SignedDuration::from_nanos(i64::from(self.runs_created));
            metadata.creation_timestamp = self.now.checked_add(later).ok().map(Time);
            self.runs_created += 1;
        }
        self.of_object(metadata);
    }

    /// A default class where no class is given: the one the Clusters' status remembers, or one of an engine that has
    /// what it is asked for. A Cluster that names a class by itself needs that one.
    pub fn of_classes(&mut self, classes: &mut Vec<ProvisioningClass>, clusters: &[Cluster]) {
        let by_default: Vec<&Cluster> =
            clusters.iter().filter(|cluster| cluster.spec.provisioning_class.is_none()).collect();
        if !classes.is_empty() || by_default.is_empty() {
            return;
        }
        let recorded = by_default
            .iter()
            .filter_map(|cluster| cluster.status.as_ref()?.provisioning_class.as_ref())
            .map(|class| class.name.clone());
        let names: BTreeSet<String> = recorded.collect();
        let name = match (names.first(), names.len()) {
            (Some(name), 1) => name.clone(),
            _ => ASSUMED_CLASS.to_owned(),
        };
        let mut class = assumed(&name, PlacementMode::Any, Vec::new());
        self.of_object(&mut class.metadata);
        self.class = Some(name);
        classes.push(class);
    }

    /// What was filled in.
    pub fn sentences(&self, others: &BTreeMap<String, usize>) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(class) = &self.class {
            said.push(format!(
                "No ProvisioningClass is given: a default one, {class}, is assumed, whose engine makes machines of every size \
                 in any zone."
            ));
        }
        if self.names > 0 {
            said.push(format!(
                "{} with generateName and no name got names made up here.",
                counted(i64::from(self.names), "Run")
            ));
        }
        if self.runs_created > 0 {
            said.push(format!(
                "{} without creationTimestamp {} taken as created now, in the order of the files.",
                counted(i64::from(self.runs_created), "Run"),
                if self.runs_created == 1 { "is" } else { "are" }
            ));
        }
        if self.accepted > 0 {
            said.push(format!(
                "{} without status {} taken as accepted: whether the API server takes the pods, only it can say.",
                counted(self.accepted as i64, "Run"),
                if self.accepted == 1 { "is" } else { "are" }
            ));
        }
        if !others.is_empty() {
            let kinds: Vec<String> = others.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            said.push(format!("Of no use here and left out: {}.", kinds.join(", ")));
        }
        said
    }
}

/// The class that a Cluster of a cluster with an operator uses, when classes may not be read: of the name it gives or
/// remembers, of the engine and with the grant that the operator recorded, in the zone it is bound to. That its engine has
/// machines is the operator's to deny.
pub fn class_of(cluster: &Cluster) -> ProvisioningClass {
    let status = cluster.status.as_ref();
    let recorded = status.and_then(|status| status.provisioning_class.as_ref());
    let named = cluster.spec.provisioning_class.as_ref().or(recorded.map(|class| &class.name));
    let zones: Vec<String> = status.and_then(|status| status.zone.clone()).into_iter().collect();
    let mode = if zones.is_empty() { PlacementMode::Any } else { PlacementMode::SameZone };
    let mut class = assumed(named.map_or(ASSUMED_CLASS, String::as_str), mode, zones);
    if catalogue::recorded_engine(cluster) == Some(EngineKind::Static) {
        class.spec.karpenter = None;
        class.spec.static_nodes = Some(StaticEngine::default());
    }
    class.spec.max_nodes_per_cluster = recorded.and_then(|class| class.max_nodes_per_cluster);
    class.spec.max_nodes_per_namespace = recorded.and_then(|class| class.max_nodes_per_namespace);
    class
}

/// The size of such a Cluster, when sizes may not be read: as the operator recorded it, in the Cluster or in its newest node;
/// before it has looked, as it is shipped. Of a size that nobody has described only what was measured of it is known, and
/// that all runs fit that were accepted.
pub fn size_of(cluster: &Cluster, nodes: &[ClusterNode], shipped: &[VmSize]) -> VmSize {
    let status = cluster.status.as_ref();
    let asked = &cluster.spec.vm_size;
    let of_newest_node = || {
        let own = nodes.iter().filter(|node| Some(&node.spec.cluster.uid) == cluster.metadata.uid.as_ref());
        own.max_by_key(|node| node.spec.ordinal).map(|node| node.spec.vm_size.clone())
    };
    let as_shipped = || {
        let size = shipped.iter().find(|size| size.spec.answers_to(asked))?;
        Some(VmSizeFacts::of(&size.spec))
    };
    let as_measured = || status?.node_capacity.as_ref().map(|capacity| measured(asked, capacity));
    let facts = status
        .and_then(|status| status.vm_size.clone())
        .or_else(of_newest_node)
        .or_else(as_shipped)
        .or_else(as_measured)
        .unwrap_or_else(|| largest(asked));
    let VmSizeFacts { size_name, vcpus, memory, accelerators } = facts;
    VmSize::new(
        &trainyard_api::vm_size::object_name(asked),
        VmSizeSpec {
            size_name,
            aliases: vec![asked.clone()],
            vcpus,
            memory,
            accelerators,
            spot_capable: true,
            ..VmSizeSpec::default()
        },
    )
}

/// A size that promises what was measured.
fn measured(name: &str, capacity: &Capacity) -> VmSizeFacts {
    let Capacity { cpu_millis, memory_bytes, pods: _, accelerators } = capacity;
    let accelerators =
        accelerators.iter().filter(|(_, count)| **count > 0).map(|(resource, count)| Accelerator {
            resource_name: resource.clone(),
            count: i32::try_from(*count).unwrap_or(i32::MAX),
            product: String::new(),
        });
    VmSizeFacts {
        size_name: name.to_owned(),
        vcpus: i32::try_from(cpu_millis / 1000).unwrap_or(i32::MAX),
        memory: Quantity(memory_bytes.to_string()),
        accelerators: accelerators.collect(),
    }
}

/// A size that holds whatever a run may ask for.
fn largest(name: &str) -> VmSizeFacts {
    VmSizeFacts {
        size_name: name.to_owned(),
        vcpus: 4096,
        memory: Quantity("64Ti".to_owned()),
        accelerators: vec![Accelerator {
            resource_name: "nvidia.com/gpu".to_owned(),
            count: 64,
            product: String::new(),
        }],
    }
}

fn assumed(name: &str, mode: PlacementMode, zones: Vec<String>) -> ProvisioningClass {
    let mut class = ProvisioningClass::new(
        name,
        ProvisioningClassSpec {
            karpenter: Some(KarpenterEngine {
                node_class_ref: NodeClassRef {
                    group: "karpenter.sh".to_owned(),
                    kind: "NodeClass".to_owned(),
                    name: "default".to_owned(),
                },
                ..KarpenterEngine::default()
            }),
            placement: Placement { mode, zones },
            ..ProvisioningClassSpec::default()
        },
    );
    class.metadata.annotations =
        Some(BTreeMap::from([(annotations::IS_DEFAULT_CLASS.to_owned(), "true".to_owned())]));
    class
}
