//! Clusters of one name, told apart.
//!
//! One name may stand for several Clusters: the one that exists, and earlier ones (other UIDs) that were removed by force
//! and left ClusterNodes behind. In: all nodes and runs that name it. Out: what belongs to which, so that each can be
//! planned by itself; the earlier ones as being deleted.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};

use super::node::LightNode;
use super::run::{LightRun, Standing};

/// What belongs to one of the Clusters of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Part<N, R> {
    /// Whether it is the Cluster that exists.
    pub is_present: bool,
    /// Its nodes.
    pub nodes: Vec<N>,
    /// Its runs.
    pub runs: Vec<R>,
}

/// The parts of all Clusters of a name of which `present` is the UID of the one that exists: the earlier ones in order of
/// their UIDs, then the present one.
///
/// A run belongs to an earlier Cluster while its live attempt is on nodes of it. When none is present, live runs of which
/// not even nodes are left are a part without nodes, because somebody has to tell them; runs that only wait are in none.
pub fn parts<N, R>(present: Option<&str>, nodes: Vec<N>, runs: Vec<R>) -> Vec<Part<N, R>>
where
    N: Borrow<LightNode>,
    R: Borrow<LightRun>,
{
    let mut by_cluster: BTreeMap<String, Vec<N>> = BTreeMap::new();
    for node in nodes {
        by_cluster.entry(node.borrow().cluster_uid.clone()).or_default().push(node);
    }
    let own = present.and_then(|uid| by_cluster.remove(uid)).unwrap_or_default();
    let mut parts = Vec::new();
    let mut rest = runs;
    for nodes in by_cluster.into_values() {
        let names: HashSet<&str> = nodes.iter().map(|node| node.borrow().name.as_str()).collect();
        let (theirs, others) = rest.into_iter().partition(|run| is_live_on(run.borrow(), &names));
        rest = others;
        parts.push(Part { is_present: false, nodes, runs: theirs });
    }
    if present.is_some() {
        parts.push(Part { is_present: true, nodes: own, runs: rest });
    } else {
        rest.retain(|run| is_live(run.borrow()));
        if !rest.is_empty() {
            parts.push(Part { is_present: false, nodes: Vec::new(), runs: rest });
        }
    }
    parts
}

/// Whether an attempt of it is live.
pub fn is_live(run: &LightRun) -> bool {
    matches!(run.standing(), Standing::Active(_))
}

fn is_live_on(run: &LightRun, nodes: &HashSet<&str>) -> bool {
    is_live(run)
        && run
            .allocation
            .as_ref()
            .is_some_and(|one| one.nodes.iter().any(|node| nodes.contains(node.as_str())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cluster_uid: &str) -> LightNode {
        let node = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode",
            "metadata": {"name": name, "namespace": "ml", "uid": name, "resourceVersion": "7",
                         "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"cluster": {"name": "c", "uid": cluster_uid}, "ordinal": 1, "engine": {},
                     "vmSize": {"sizeName": "S", "vcpus": 1, "memory": "1Gi"},
                     "taint": {"key": "k", "effect": "NoSchedule"}},
        }));
        LightNode::of(&node.expect("a ClusterNode")).expect("it has all metadata")
    }

    /// A run that waits, or whose attempt 1 is on that node.
    fn run(name: &str, on: Option<&str>) -> LightRun {
        let allocation =
            on.map(|node| json!({"attempt": 1, "nodes": [{"name": node, "nodeName": "n", "nodeUID": "u"}]}));
        let run = serde_json::from_value(json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "Run",
            "metadata": {"name": name, "namespace": "ml", "uid": name, "resourceVersion": "7",
                         "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"clusterRef": {"name": "c"}, "container": {"image": "i"}},
            "status": {"allocation": allocation},
        }));
        LightRun::of(&run.expect("a Run")).expect("it has all metadata")
    }

    fn names(parts: Vec<Part<LightNode, LightRun>>) -> Vec<(bool, Vec<String>, Vec<String>)> {
        parts
            .into_iter()
            .map(|part| {
                let nodes = part.nodes.into_iter().map(|node| node.name).collect();
                (part.is_present, nodes, part.runs.into_iter().map(|run| run.id.name).collect())
            })
            .collect()
    }

    fn text(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_run_stays_with_the_earlier_cluster_whose_nodes_it_uses() {
        let nodes = vec![node("new-1", "uid-new"), node("old-1", "uid-old")];
        let runs = vec![run("waits", None), run("on-old", Some("old-1")), run("on-new", Some("new-1"))];
        assert_eq!(
            names(parts(Some("uid-new"), nodes, runs)),
            [
                (false, text(&["old-1"]), text(&["on-old"])),
                (true, text(&["new-1"]), text(&["waits", "on-new"])),
            ]
        );
    }

    #[test]
    fn without_a_cluster_only_live_runs_are_left_to_be_told() {
        let runs = || vec![run("waits", None), run("works", Some("gone-1"))];
        assert_eq!(names(parts(None, Vec::new(), runs())), [(false, vec![], text(&["works"]))]);
        assert_eq!(names(parts(None, Vec::new(), vec![run("waits", None)])), []);
        assert_eq!(
            names(parts(None, vec![node("old-1", "uid-old")], runs())),
            [(false, text(&["old-1"]), vec![]), (false, vec![], text(&["works"]))]
        );
    }

    #[test]
    fn a_cluster_of_which_nothing_else_is_known_is_a_part() {
        assert_eq!(names(parts(Some("uid"), Vec::new(), Vec::new())), [(true, vec![], vec![])]);
    }
}
