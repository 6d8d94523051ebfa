//! The NodeClaim of a ClusterNode. Pure; everything in it comes from the ClusterNode's own copy of its class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt as _;
use trainyard_api::{
    ClusterNode,
    cluster_node::KarpenterNode,
    placement::{Requirement, RequirementOperator},
};

use crate::provisioner::ownership;

use super::wire::{
    CAPACITY_TYPE, ClaimClassRef, ClaimRequirement, ClaimResources, DO_NOT_DISRUPT, INSTANCE_TYPE,
    NODE_POOL_LABEL, NodeClaim, NodeClaimSpec, OS, ZONE,
};

/// Operating system of every machine, unless the class requires another.
const LINUX: &str = "linux";

/// The NodePool name that a Cluster's claims carry: one per Cluster, and no name a person would choose.
pub fn pool_name(cluster_uid: &str) -> String {
    format!("trainyard-{cluster_uid}")
}

/// The UID of the Cluster whose claims carry that NodePool name.
pub fn cluster_of_pool_name(name: &str) -> Option<&str> {
    name.strip_prefix("trainyard-").filter(|uid| !uid.is_empty())
}

/// The labels that say whose machine it is. Karpenter copies them to the Node.
pub fn labels(node: &ClusterNode) -> BTreeMap<String, String> {
    let mut labels = ownership::labels(node);
    labels.insert(NODE_POOL_LABEL.to_owned(), pool_name(&node.spec.cluster.uid));
    labels
}

/// Builds the claim. Zone and instance type are requirements and never labels: a label on the claim would win over
/// what the provider found.
///
/// `terminationGracePeriod` stays unset: it cannot be changed later, and would end a run when somebody else deletes the
/// claim. A drain that hangs is cut short by an annotation instead.
pub fn build(node: &ClusterNode, engine: &KarpenterNode) -> NodeClaim {
    let class = &engine.node_class_ref;
    let taint = &node.spec.taint;
    let spec = NodeClaimSpec {
        requirements: requirements(engine),
        node_class_ref: Some(ClaimClassRef {
            group: class.group.clone(),
            kind: class.kind.clone(),
            name: class.name.clone(),
        }),
        resources: Some(ClaimResources { requests: engine.requests.clone() }),
        taints: vec![core::Taint {
            key: taint.key.clone(),
            value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
            effect: taint.effect.as_str().to_owned(),
            time_added: None,
        }],
        expire_after: Some("Never".to_owned()),
    };
    let mut claim = NodeClaim::new(&node.name_any(), spec);
    claim.metadata.labels = Some(labels(node));
    claim.metadata.annotations = Some(BTreeMap::from([(DO_NOT_DISRUPT.to_owned(), "true".to_owned())]));
    claim
}

fn requirements(engine: &KarpenterNode) -> Vec<ClaimRequirement> {
    let one = |key: &str, values: Vec<String>| ClaimRequirement {
        key: key.to_owned(),
        operator: RequirementOperator::In.as_str().to_owned(),
        values,
    };
    let mut all = vec![
        one(INSTANCE_TYPE, vec![engine.instance_type.clone()]),
        one(CAPACITY_TYPE, vec![engine.capacity_type.as_str().to_owned()]),
    ];
    if !engine.requirements.iter().any(|requirement| requirement.key == OS) {
        all.push(one(OS, vec![LINUX.to_owned()]));
    }
    if !engine.zones.is_empty() {
        all.push(one(ZONE, engine.zones.clone()));
    }
    all.extend(engine.requirements.iter().map(|requirement| {
        let Requirement { key, operator, values } = requirement;
        ClaimRequirement { key: key.clone(), operator: operator.as_str().to_owned(), values: values.clone() }
    }));
    all
}
