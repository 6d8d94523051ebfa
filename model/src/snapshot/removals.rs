//! Names of nodes, and what a Cluster's annotations ask to be removed by name.
//!
//! An annotation stays until a person removes it, as a repository needs it, and does nothing more once its node is gone: names of
//! nodes are never used again.

use sha2::{Digest as _, Sha256};
use trainyard_api::cluster::Cluster;
use trainyard_api::names::annotations;
use trainyard_planner::{Removal, RemovalKind};

use super::node_name;

/// `<cluster>-<6 characters of a hash of the Cluster's UID>-<ordinal>`: a Cluster made again under an old name meets no
/// machine of its predecessor.
pub fn cluster_node_name(cluster: &str, uid: &str, ordinal: i64) -> String {
    let digest = Sha256::digest(uid.as_bytes());
    let [a, b, c] = [digest[0], digest[1], digest[2]];
    format!("{cluster}-{a:02x}{b:02x}{c:02x}-{ordinal}")
}

/// One annotation, and the node that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Key of the annotation.
    pub annotation: &'static str,
    /// Its value.
    pub node: &'a str,
}

const KINDS: [(&str, RemovalKind); 2] = [
    (annotations::REMOVE_NOW, RemovalKind::Remove),
    (annotations::REHEARSE_PREEMPTION, RemovalKind::RehearsePreemption),
];

fn written(cluster: &Cluster) -> impl Iterator<Item = (Asked<'_>, RemovalKind)> {
    let given = cluster.metadata.annotations.as_ref();
    KINDS.into_iter().filter_map(move |(annotation, kind)| {
        let node = given?.get(annotation)?.as_str();
        (!node.is_empty()).then_some((Asked { annotation, node }, kind))
    })
}

/// The nodes that shall go now.
pub fn asked(cluster: &Cluster) -> Vec<Removal> {
    written(cluster).map(|(asked, kind)| Removal { node: node_name(asked.node), kind }).collect()
}

/// Names that no node of this Cluster has or had.
pub fn unknown(cluster: &Cluster) -> Vec<Asked<'_>> {
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let last = cluster.status.as_ref().map_or(0, |status| status.last_node_ordinal);
    let is_known = |asked: &Asked<'_>| {
        let ordinal = asked.node.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<i64>().ok());
        ordinal.is_some_and(|ordinal| {
            (1..=last).contains(&ordinal) && asked.node == cluster_node_name(name, uid, ordinal)
        })
    };
    written(cluster).map(|(asked, _)| asked).filter(|asked| !is_known(asked)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asking(annotation: &str, node: &str) -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "nc6", "namespace": "ml", "uid": "c1", "annotations": {annotation: node}},
            "spec": {"vmSize": "S", "scale": {"maxNodes": 2}},
            "status": {"lastNodeOrdinal": 2},
        }))
        .expect("a Cluster")
    }

    #[test]
    fn a_cluster_made_again_under_the_same_name_gets_other_node_names() {
        let (old, new) = (cluster_node_name("nc6", "uid-1", 1), cluster_node_name("nc6", "uid-2", 1));
        assert_ne!(old, new);
        assert_eq!(old, cluster_node_name("nc6", "uid-1", 1));
        assert_eq!(old.len(), "nc6-".len() + 6 + "-1".len());
    }

    #[test]
    fn a_node_that_there_is_or_was_is_no_error_and_any_other_name_is() {
        let second = cluster_node_name("nc6", "c1", 2);
        let known = asking("trainyard.dev/remove-now", &second);
        assert_eq!(unknown(&known), []);
        assert_eq!(asked(&known), [Removal { node: node_name(second), kind: RemovalKind::Remove }]);
        let to_come = cluster_node_name("nc6", "c1", 3);
        for name in [to_come.as_str(), "nc6-2", "2", "nc6-aaaaaa-2"] {
            let unknown = asking("trainyard.dev/rehearse-preemption", name);
            assert_eq!(super::unknown(&unknown).len(), 1, "{name}");
        }
        assert_eq!(asked(&asking("trainyard.dev/remove-now", "")), []);
        assert_eq!(asked(&asking("other", "nc6-2")), []);
    }
}
