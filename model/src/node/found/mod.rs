//! Nodes that are there already: whether one could be taken for a ClusterNode, and what is in the way.
//!
//! In: a [`Candidate`] and the spec of a ClusterNode, which may not exist yet. Out: a [`Fitness`]; for a whole pool,
//! [`Counted`], in the words that users read. Called by the engine of static Nodes. Nothing here reads or takes anything.

mod count;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use trainyard_api::{capacity, cluster_node::ClusterNodeSpec, names::node_labels};

use super::{
    seen::{NodeFacts, NodeTaint},
    usable::{self, Obstacle},
};

pub use count::{Counted, TooSmall, count};

/// The least share of the promised memory that the Node of a large enough machine shows.
///
/// What a cloud sells as 112 GiB is 110 GiB to its kernel, and firmware, kernel and crash dump take up to 7 % of a machine
/// of 8 GiB. Below nine tenths a whole memory module is missing, or the size is another one. Cpus and accelerators are
/// counted, so they must be all there.
const MEMORY_PERCENT: i64 = 90;

/// The label by which Karpenter's own machines are known. Those of a Cluster name a NodePool that begins so.
const KARPENTERS: (&str, &str) = ("karpenter.sh/nodepool", "trainyard-");

/// A Node, reduced to what decides whether it can be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The Node.
    pub node: NodeFacts,
    /// `status.capacity`: thousandths of a cpu.
    pub cpu_millis: i64,
    /// `status.capacity`: bytes.
    pub memory_bytes: i64,
}

impl Candidate {
    /// Reduces a Node. `None` for one without the metadata that every stored object has.
    pub fn of(node: &core::Node) -> Option<Self> {
        let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
        let amount = |name: &str| capacity.and_then(|capacity| capacity.get(name));
        Some(Self {
            node: NodeFacts::of(node)?,
            cpu_millis: amount("cpu").and_then(capacity::millis).unwrap_or(0),
            memory_bytes: amount("memory").and_then(capacity::bytes).unwrap_or(0),
        })
    }

    /// Whether it has all these labels.
    pub fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.node.labels.get(key) == Some(value))
    }
}

/// Whether a Node could be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// At once.
    Fit,
    /// A Cluster has it.
    Used {
        /// Its UID; empty for a machine of Karpenter's that was not tied to its claim yet.
        cluster_uid: String,
        /// `<namespace>/<name>` of that Cluster, as far as the Node tells.
        cluster: String,
    },
    /// Not before something changes: a predicate, as `is cordoned`.
    Hindered(String),
    /// It is smaller than the size promises: a predicate, as `has 0 of 1 nvidia.com/gpu`.
    TooSmall(String),
}

/// Judges one Node.
pub fn fitness(spec: &ClusterNodeSpec, candidate: &Candidate) -> Fitness {
    let node = &candidate.node;
    if let Some(used) = used_by(&node.labels) {
        return used;
    }
    if node.deleting_since.is_some() {
        return Fitness::Hindered("is being deleted".to_owned());
    }
    if !node.ready {
        return Fitness::Hindered("is not ready".to_owned());
    }
    if let Some(lacks) = lacks(spec, candidate) {
        return Fitness::TooSmall(lacks);
    }
    match usable::obstacle(spec, node) {
        None => {}
        Some(Obstacle::Cordoned) => return Fitness::Hindered("is cordoned".to_owned()),
        Some(Obstacle::Taint(taint)) => {
            return Fitness::Hindered(format!("has taint {taint}, which run pods do not tolerate"));
        }
        Some(Obstacle::NotReady(why)) => return Fitness::Hindered(format!("is not ready: {why}")),
        Some(Obstacle::NotRegistered) => {
            return Fitness::Hindered("is not registered by Karpenter yet".to_owned());
        }
        Some(Obstacle::Accelerators { resource, has, needs }) => {
            return Fitness::TooSmall(format!("has {has} of {needs} {resource}"));
        }
        // Found by a look at its pods, which the engine makes itself before it takes a Node.
        Some(Obstacle::Taken { .. } | Obstacle::Crowded(_)) => {
            return Fitness::Hindered("carries pods of others".to_owned());
        }
    }
    match clash(spec, node) {
        Some(taint) => Fitness::Hindered(format!("has taint {taint} in the place of the class's")),
        None => Fitness::Fit,
    }
}

fn used_by(labels: &BTreeMap<String, String>) -> Option<Fitness> {
    let text = |key: &str| labels.get(key).map_or("?", String::as_str);
    if let Some(uid) = labels.get(node_labels::CLUSTER_UID) {
        let cluster = format!("{}/{}", text(node_labels::CLUSTER_NAMESPACE), text(node_labels::CLUSTER));
        return Some(Fitness::Used { cluster_uid: uid.clone(), cluster });
    }
    let (key, prefix) = KARPENTERS;
    let pool = labels.get(key).filter(|pool| pool.starts_with(prefix))?;
    Some(Fitness::Used { cluster_uid: pool[prefix.len()..].to_owned(), cluster: "?/?".to_owned() })
}

/// What it has less of than the size promises. Accelerators are looked at as they are allocatable now: one that is broken
/// is not there.
fn lacks(spec: &ClusterNodeSpec, candidate: &Candidate) -> Option<String> {
    let size = &spec.vm_size;
    for accelerator in &size.accelerators {
        let name = &accelerator.resource_name;
        let has = candidate.node.allocatable.devices.get(name).copied().unwrap_or(0);
        if has < i64::from(accelerator.count) {
            return Some(format!("has {has} of {} {name}", accelerator.count));
        }
    }
    if candidate.cpu_millis < i64::from(size.vcpus) * 1000 {
        return Some(format!("has {} of {} cpus", cpus(candidate.cpu_millis), size.vcpus));
    }
    let promised = capacity::bytes(&size.memory).unwrap_or(0);
    if candidate.memory_bytes < promised / 100 * MEMORY_PERCENT {
        return Some(format!("has {} MiB of {} memory", candidate.memory_bytes >> 20, size.memory.0));
    }
    None
}

fn cpus(millis: i64) -> String {
    if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// A taint of the class's key and effect and another value. A Node has at most one of these, and this one is the
/// administrator's.
fn clash<'a>(spec: &ClusterNodeSpec, node: &'a NodeFacts) -> Option<&'a NodeTaint> {
    let ours = &spec.taint;
    node.taints.iter().find(|taint| {
        taint.key == ours.key && taint.effect == ours.effect.as_str() && taint.value != ours.value
    })
}
