//! The labels by which a machine says whose it is: on NodeClaims, and on Nodes that were found.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use trainyard_api::{ClusterNode, names::node_labels};

/// Those of the machine of this ClusterNode.
pub fn labels(node: &ClusterNode) -> BTreeMap<String, String> {
    let cluster = &node.spec.cluster;
    [
        (node_labels::CLUSTER, cluster.name.clone()),
        (node_labels::CLUSTER_UID, cluster.uid.clone()),
        (node_labels::CLUSTER_NAMESPACE, node.namespace().unwrap_or_default()),
        (node_labels::CLUSTER_NODE, node.name_any()),
        (node_labels::CLUSTER_NODE_UID, node.uid().unwrap_or_default()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
