//! From Karpenter's objects to machines. Pure.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use trainyard_api::names::node_labels;
use trainyard_model::node::seen::{Backing, Machine, NodeFacts, Owner, Progress};

use super::{
    claim::cluster_of_pool_name,
    wire::{NODE_POOL_LABEL, NodeClaim, TERMINATION_TIME, ZONE},
};

/// A NodeClaim, reduced to what is read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimFacts {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) cluster_uid: Option<String>,
    pub(super) owner: Option<Owner>,
    created: Timestamp,
    deleting_since: Option<Timestamp>,
    drain_skipped: bool,
    progress: Progress,
    trouble: Option<String>,
    node_name: Option<String>,
    provider_id: Option<String>,
    zone: Option<String>,
}

impl ClaimFacts {
    /// Reduces a claim. `None` for one without the metadata every stored object has.
    pub fn of(claim: &NodeClaim) -> Option<Self> {
        let metadata = &claim.metadata;
        let none = BTreeMap::new();
        let labels = metadata.labels.as_ref().unwrap_or(&none);
        let status = claim.status.clone().unwrap_or_default();
        let annotated = |key: &str| metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key));
        let progress = if status.is("Registered") {
            Progress::Registered
        } else if status.is("Launched") {
            Progress::Launched
        } else {
            Progress::Requested
        };
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            cluster_uid: cluster_uid(labels).map(str::to_owned),
            owner: Owner::of(labels),
            created: metadata.creation_timestamp.as_ref()?.0,
            deleting_since: metadata.deletion_timestamp.as_ref().map(|time| time.0),
            drain_skipped: annotated(TERMINATION_TIME),
            progress,
            trouble: trouble(&status, progress),
            node_name: status.node_name.filter(|name| !name.is_empty()),
            provider_id: status.provider_id.filter(|id| !id.is_empty()),
            zone: labels.get(ZONE).cloned(),
        })
    }

    fn has(&self, node: &NodeFacts) -> bool {
        (self.provider_id.is_some() && self.provider_id == node.provider_id)
            || self.node_name.as_deref() == Some(&node.name)
    }

    pub(super) fn machine(&self, node: Option<&NodeFacts>) -> Machine {
        Machine {
            uid: self.uid.clone(),
            name: self.name.clone(),
            backing: Some(Backing { created: Some(self.created), node_name: self.node_name.clone() }),
            owner: self.owner.clone(),
            progress: self.progress,
            trouble: self.trouble.clone(),
            deleting_since: self.deleting_since,
            drain_skipped: self.drain_skipped,
            found: false,
            provider_id: self.provider_id.clone(),
            zone: self.zone.clone().or_else(|| node.and_then(NodeFacts::zone).map(str::to_owned)),
            node: node.cloned(),
        }
    }
}

/// Karpenter's words on why a claim gets no further.
fn trouble(status: &super::wire::NodeClaimStatus, progress: Progress) -> Option<String> {
    let kind = match progress {
        Progress::Requested => "Launched",
        Progress::Launched => "Registered",
        Progress::Registered => return None,
    };
    let condition = status.condition(kind)?;
    // Set by Karpenter on every new claim, and on one that waits for its Node: neither is trouble.
    let is_waiting = matches!(condition.reason.as_str(), "" | "AwaitingReconciliation" | "NodeNotFound");
    let detail = if condition.message.is_empty() { &condition.reason } else { &condition.message };
    (!is_waiting).then(|| format!("{}: {detail}", condition.reason))
}

/// The Cluster that an object's labels name: by our own label, or by the NodePool's name, which a kubelet may bring
/// before Karpenter has copied ours.
pub fn cluster_uid(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels
        .get(node_labels::CLUSTER_UID)
        .map(String::as_str)
        .or_else(|| labels.get(NODE_POOL_LABEL).and_then(|name| cluster_of_pool_name(name)))
}

/// A Node under one of our NodePool names or labels, reduced; others count as absent. So does one of a person's NodePool
/// that another engine has found there.
pub fn node(node: &core::Node) -> Option<NodeFacts> {
    NodeFacts::of(node).filter(|facts| {
        cluster_uid(&facts.labels).is_some() && !facts.labels.contains_key(node_labels::ENGINE)
    })
}

/// A Node that no claim accounts for.
pub fn bare(node: &NodeFacts) -> Machine {
    Machine {
        uid: node.uid.clone(),
        name: node.name.clone(),
        backing: None,
        owner: Owner::of(&node.labels),
        progress: Progress::Launched,
        trouble: None,
        deleting_since: node.deleting_since,
        drain_skipped: false,
        found: false,
        provider_id: node.provider_id.clone(),
        zone: node.zone().map(str::to_owned),
        node: Some(node.clone()),
    }
}

/// Claims with their Nodes, and Nodes without claim.
pub fn machines<'a>(
    claims: impl IntoIterator<Item = &'a ClaimFacts>,
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
) -> Vec<Machine> {
    let nodes: Vec<_> = nodes.into_iter().collect();
    let mut accounted = HashSet::new();
    let mut all: Vec<_> = claims
        .into_iter()
        .map(|claim| {
            let node = nodes.iter().find(|node| claim.has(node));
            accounted.extend(node.map(|node| node.uid.as_str()));
            claim.machine(node.copied())
        })
        .collect();
    all.extend(nodes.iter().filter(|node| !accounted.contains(node.uid.as_str())).map(|node| bare(node)));
    all
}
