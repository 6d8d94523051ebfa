//! What is written on a Node that is taken, and how it is taken off again. Pure.
//!
//! All of it follows from labels that no kubelet can change: whose the machine is, which taint it was given, and whether
//! it was cordoned by trainyard. So a Node is given back as it was found also when its ClusterNode is gone, and what an
//! administrator has set himself, before or meanwhile, stays.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use trainyard_api::{ClusterNode, names::node_labels};
use trainyard_model::node::seen::{Backing, Machine, NodeFacts, Owner, Progress};

use crate::provisioner::ownership;

/// Value of the label that says which engine has a machine.
pub const ENGINE: &str = "static";

/// The UID of the Cluster that has taken the Node with these labels, if one has.
pub fn cluster_uid(labels: &BTreeMap<String, String>) -> Option<&str> {
    let is_ours = labels.get(node_labels::ENGINE).is_some_and(|engine| engine == ENGINE);
    labels.get(node_labels::CLUSTER_UID).filter(|_| is_ours).map(String::as_str)
}

/// Whether the Node with these labels has been taken and not looked at since.
pub fn is_being_taken(labels: &BTreeMap<String, String>) -> bool {
    cluster_uid(labels).is_some() && labels.contains_key(node_labels::TAKING)
}

/// The fields that take `node` for `owner`: labels, and the taint unless it is there. It is not its machine before it is
/// [`kept`].
pub fn taken(node: &core::Node, owner: &ClusterNode) -> Value {
    let mut labels = ownership::labels(owner);
    labels.insert(node_labels::ENGINE.to_owned(), ENGINE.to_owned());
    labels.insert(node_labels::TAKING.to_owned(), "true".to_owned());
    let taint = &owner.spec.taint;
    let ours = core::Taint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
        effect: taint.effect.as_str().to_owned(),
        time_added: None,
    };
    let mut taints = taints(node);
    if taints.iter().any(|taint| hash(taint) == hash(&ours)) {
        return json!({"metadata": {"labels": labels}});
    }
    labels.insert(node_labels::ADDED_TAINT.to_owned(), hash(&ours));
    taints.push(ours);
    json!({"metadata": {"labels": labels}, "spec": {"taints": taints}})
}

/// The fields that make a Node that was taken the machine of whom it was taken for.
pub fn kept() -> Value {
    let mark = BTreeMap::from([(node_labels::TAKING, Value::Null)]);
    json!({"metadata": {"labels": mark}})
}

/// The fields that make `node` what it was before it was taken.
pub fn given_back(node: &core::Node) -> Value {
    let there = node.labels();
    let labels: Map<_, _> = node_labels::ALL
        .iter()
        .filter(|key| there.contains_key(**key))
        .map(|key| ((*key).to_owned(), Value::Null))
        .collect();
    let mut spec = Map::new();
    let before = taints(node);
    let mut after = before.clone();
    after.retain(|taint| there.get(node_labels::ADDED_TAINT) != Some(&hash(taint)));
    if after.len() < before.len() {
        spec.insert("taints".to_owned(), if after.is_empty() { Value::Null } else { json!(after) });
    }
    if there.contains_key(node_labels::CORDONED) {
        spec.insert("unschedulable".to_owned(), Value::Null);
    }
    json!({"metadata": {"labels": labels}, "spec": spec})
}

fn taints(node: &core::Node) -> Vec<core::Taint> {
    node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default()
}

/// Short enough for a label, long enough that nobody hits it by accident.
fn hash(taint: &core::Taint) -> String {
    let core::Taint { key, value, effect, time_added: _ } = taint;
    let text = format!("{key}={}:{effect}", value.as_deref().unwrap_or_default());
    let digest = Sha256::digest(text.as_bytes());
    let half = digest.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{half:032x}")
}

/// A Node that a Cluster has taken, as a machine.
pub fn machine(node: &NodeFacts) -> Option<Machine> {
    cluster_uid(&node.labels)?;
    Some(Machine {
        uid: node.uid.clone(),
        name: node.name.clone(),
        backing: Some(Backing { created: None, node_name: Some(node.name.clone()) }),
        owner: Owner::of(&node.labels),
        progress: if is_being_taken(&node.labels) { Progress::Requested } else { Progress::Registered },
        trouble: None,
        // Whoever deletes the Node takes it out of the pool; that is told by the Node itself.
        deleting_since: None,
        drain_skipped: false,
        found: true,
        provider_id: node.provider_id.clone(),
        zone: node.zone().map(str::to_owned),
        node: Some(node.clone()),
    })
}
