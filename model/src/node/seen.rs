//! What engines and the API server tell of machines, reduced to what is read of it.
//!
//! Made by the engines under `provisioner/` and by the node controller's watches. No decision here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use trainyard_api::{capacity, names::node_labels};

/// One machine an engine knows under a Cluster's name, whoever asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// UID of the object it is released by: the backing object, or the Node where there is no other.
    pub uid: String,
    /// Name of that object.
    pub name: String,
    /// The engine's own object. None for a Node that no such object accounts for.
    pub backing: Option<Backing>,
    /// The ClusterNode it was made for, by its labels; none when they are missing or incomplete.
    pub owner: Option<Owner>,
    /// How far it got.
    pub progress: Progress,
    /// Why it is not launched, in the engine's words, while it is not.
    pub trouble: Option<String>,
    /// Since when it is being destroyed, by whomever.
    pub deleting_since: Option<Timestamp>,
    /// The engine was told not to wait for pods there.
    pub drain_skipped: bool,
    /// It was found and not made: it is given back and not destroyed, and a lost one may come back with its pods.
    pub found: bool,
    /// The cloud's identity.
    pub provider_id: Option<String>,
    /// Its zone, once known.
    pub zone: Option<String>,
    /// Its Node, once there.
    pub node: Option<NodeFacts>,
}

/// An engine's object behind a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// When the API server made it. None for one that was there before it was asked for.
    pub created: Option<Timestamp>,
    /// Name of the Node it says it has.
    pub node_name: Option<String>,
}

/// Which ClusterNode a machine was made for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Owner {
    /// The owner named by the labels that trainyard puts on machines and Nodes.
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            namespace: labels.get(node_labels::CLUSTER_NAMESPACE)?.clone(),
            name: labels.get(node_labels::CLUSTER_NODE)?.clone(),
            uid: labels.get(node_labels::CLUSTER_NODE_UID)?.clone(),
        })
    }
}

/// How far a machine got, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Asked for.
    Requested,
    /// The cloud has made it, as far as the engine knows.
    Launched,
    /// The engine has tied its Node to it.
    Registered,
}

/// What an engine said of a machine when it gave it up; kept after the machine's object is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    /// Name of the machine's object.
    pub name: String,
    /// UID of the machine's object.
    pub uid: String,
    /// What it means.
    pub cause: GivenUp,
    /// The engine's words.
    pub message: String,
}

/// Why an engine gave a machine up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GivenUp {
    /// The cloud has none now.
    StockOut,
    /// The cloud's quota is used up.
    Quota,
    /// Refused for another reason.
    Refused,
    /// The cloud takes it back.
    Preempted,
}

/// A Node, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Its labels: DaemonSets select by them, and ours name the ClusterNode.
    pub labels: BTreeMap<String, String>,
    /// Condition Ready is True.
    pub ready: bool,
    /// Since when its condition Ready is what it is, as whoever set it says.
    pub ready_changed: Option<Timestamp>,
    /// Why it is not, in the kubelet's words.
    pub not_ready_message: String,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Its taints.
    pub taints: Vec<NodeTaint>,
    /// What it allocates.
    pub allocatable: Allocatable,
    /// Since when it is being deleted.
    pub deleting_since: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A taint as it stands on a Node; any effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value, empty when there is none.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

impl std::fmt::Display for NodeTaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}:{}", self.key, self.effect)
        } else {
            write!(f, "{}={}:{}", self.key, self.value, self.effect)
        }
    }
}

/// `status.allocatable`, as far as runs share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a cpu.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Pods.
    pub pods: i64,
    /// Extended resources: those with a domain in their name.
    pub devices: BTreeMap<String, i64>,
}

impl NodeFacts {
    /// Reduces a Node. `None` for one without name and UID, which no API server returns.
    pub fn of(node: &core::Node) -> Option<Self> {
        let metadata = &node.metadata;
        let spec = node.spec.as_ref();
        let ready = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == "Ready");
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            provider_id: spec.and_then(|spec| spec.provider_id.clone()).filter(|id| !id.is_empty()),
            labels: metadata.labels.clone().unwrap_or_default(),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            ready_changed: ready
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0),
            not_ready_message: match ready {
                Some(condition) if condition.status == "True" => String::new(),
                Some(condition) => condition.message.clone().unwrap_or_default(),
                None => "its kubelet has not reported yet".to_owned(),
            },
            cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            taints: spec
                .iter()
                .flat_map(|spec| spec.taints.iter().flatten())
                .map(|taint| NodeTaint {
                    key: taint.key.clone(),
                    value: taint.value.clone().unwrap_or_default(),
                    effect: taint.effect.clone(),
                })
                .collect(),
            allocatable: Allocatable::of(node),
            deleting_since: metadata.deletion_timestamp.as_ref().map(|time| time.0),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        })
    }

    /// Its zone.
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone").map(String::as_str).filter(|zone| !zone.is_empty())
    }
}

impl Allocatable {
    fn of(node: &core::Node) -> Self {
        let mut found = Self::default();
        let amounts = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
        for (name, quantity) in amounts {
            match name.as_str() {
                "cpu" => found.cpu_millis = capacity::millis(quantity).unwrap_or(0),
                "pods" => found.pods = capacity::count(quantity).unwrap_or(0),
                "memory" => found.memory_bytes = capacity::bytes(quantity).unwrap_or(0),
                name if name.contains('/') => {
                    if let Some(count) = capacity::count(quantity) {
                        found.devices.insert(name.to_owned(), count);
                    }
                }
                _ => {}
            }
        }
        found
    }
}
