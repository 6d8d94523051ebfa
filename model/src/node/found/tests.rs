#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn spec() -> ClusterNodeSpec {
    serde_json::from_value(json!({
        "cluster": {"name": "a", "uid": "a-uid"},
        "ordinal": 1,
        "vmSize": {"sizeName": "Lab_4", "vcpus": 8, "memory": "64Gi",
                   "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 4, "product": "A100"}]},
        "engine": {"static": {"nodeSelector": {"pool": "lab"}}},
        "taint": {"key": "trainyard.dev/cluster", "value": "a", "effect": "NoSchedule"},
        "tolerations": [{"key": "sku", "operator": "Exists"}],
    }))
    .unwrap()
}

/// As a merge patch: `null` removes.
fn merge(into: &mut Value, change: &Value) {
    let (Some(fields), Some(changes)) = (into.as_object_mut(), change.as_object()) else {
        *into = change.clone();
        return;
    };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// A Node that fits exactly, but for `change`.
fn candidate(change: &Value) -> Candidate {
    let amounts = json!({"cpu": "8", "memory": "62Gi", "nvidia.com/gpu": "4"});
    let mut node = json!({
        "metadata": {"name": "n", "uid": "n-uid", "labels": {"pool": "lab", "rack": "1"}},
        "spec": {"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]},
        "status": {"capacity": amounts, "allocatable": amounts,
                   "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut node, change);
    Candidate::of(&serde_json::from_value(node).unwrap()).unwrap()
}

#[test]
fn a_ready_node_of_the_size_fits() {
    assert_eq!(fitness(&spec(), &candidate(&json!({}))), Fitness::Fit);
    let larger = json!({"capacity": {"cpu": "64"}, "allocatable": {"nvidia.com/gpu": "8"}});
    assert_eq!(fitness(&spec(), &candidate(&json!({"status": larger}))), Fitness::Fit);
}

#[rstest]
#[case::gpus(json!({"allocatable": {"nvidia.com/gpu": "3"}}), "has 3 of 4 nvidia.com/gpu")]
#[case::no_plugin(json!({"allocatable": {"nvidia.com/gpu": null}}), "has 0 of 4 nvidia.com/gpu")]
#[case::cpus(json!({"capacity": {"cpu": "7500m"}}), "has 7500m of 8 cpus")]
#[case::memory(json!({"capacity": {"memory": "57Gi"}}), "has 58368 MiB of 64Gi memory")]
fn a_node_smaller_than_the_size_is_too_small(#[case] status: Value, #[case] why: &str) {
    let found = fitness(&spec(), &candidate(&json!({"status": status})));
    assert_eq!(found, Fitness::TooSmall(why.to_owned()));
}

#[test]
fn what_the_kernel_keeps_for_itself_is_not_missed() {
    let small = json!({"status": {"capacity": {"memory": "58Gi"}, "allocatable": {"memory": "40Gi"}}});
    assert_eq!(fitness(&spec(), &candidate(&small)), Fitness::Fit);
}

#[rstest]
#[case::silent(json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), "is not ready")]
#[case::cordoned(json!({"spec": {"unschedulable": true}}), "is cordoned")]
#[case::deleted(json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}), "is being deleted")]
#[case::tainted(
    json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}}),
    "has taint broken:NoExecute, which run pods do not tolerate"
)]
#[case::starting(
    json!({"spec": {"taints": [{"key": "readiness.k8s.io/x", "effect": "NoSchedule"}]}}),
    "is not ready: taint readiness.k8s.io/x:NoSchedule is still on it"
)]
#[case::reserved_by_hand(
    json!({"spec": {"taints": [{"key": "trainyard.dev/cluster", "value": "b", "effect": "NoSchedule"}]}}),
    "has taint trainyard.dev/cluster=b:NoSchedule, which run pods do not tolerate"
)]
fn a_node_with_something_in_the_way_is_hindered(#[case] change: Value, #[case] why: &str) {
    assert_eq!(fitness(&spec(), &candidate(&change)), Fitness::Hindered(why.to_owned()));
}

/// `docs/static.md` has a row for what is in the way, by its first two words.
#[rstest]
#[case(&json!({"spec": {"unschedulable": true}}))]
#[case(&json!({"status": {"conditions": []}}))]
#[case(&json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}))]
#[case(&json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}}))]
fn what_is_in_the_way_is_explained(#[case] change: &Value) {
    let Fitness::Hindered(why) = fitness(&spec(), &candidate(change)) else {
        panic!("nothing is in the way")
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/static.md");
    let page = fs::read_to_string(page).unwrap();
    let words = why.split(' ').take(2).collect::<Vec<_>>().join(" ");
    assert!(page.lines().any(|line| line.starts_with(&format!("| `{words}"))), "`{words}` has no row");
}

#[test]
fn a_tolerated_taint_in_the_place_of_ours_is_not_overwritten() {
    let mut spec = spec();
    (spec.taint.key, spec.taint.value) = ("sku".to_owned(), "a".to_owned());
    let found = fitness(&spec, &candidate(&json!({})));
    assert_eq!(
        found,
        Fitness::Hindered("has taint sku=gpu:NoSchedule in the place of the class's".to_owned())
    );
    spec.taint.value = "gpu".to_owned();
    assert_eq!(fitness(&spec, &candidate(&json!({}))), Fitness::Fit, "the same taint is no clash");
}

#[rstest]
#[case::static_or_made(
    json!({"trainyard.node-restriction.kubernetes.io/cluster-uid": "b-uid",
           "trainyard.node-restriction.kubernetes.io/cluster": "b",
           "trainyard.node-restriction.kubernetes.io/cluster-namespace": "lab"}),
    "b-uid", "lab/b"
)]
#[case::just_made(json!({"karpenter.sh/nodepool": "trainyard-c-uid"}), "c-uid", "?/?")]
fn a_node_of_a_cluster_is_used(#[case] labels: Value, #[case] uid: &str, #[case] cluster: &str) {
    let found = fitness(&spec(), &candidate(&json!({"metadata": {"labels": labels}})));
    assert_eq!(found, Fitness::Used { cluster_uid: uid.to_owned(), cluster: cluster.to_owned() });
}

#[test]
fn a_node_of_a_person_s_node_pool_can_be_taken() {
    let found =
        fitness(&spec(), &candidate(&json!({"metadata": {"labels": {"karpenter.sh/nodepool": "x"}}})));
    assert_eq!(found, Fitness::Fit);
}

#[test]
fn every_label_of_the_selector_must_be_there() {
    let selector = |labels: Value| serde_json::from_value(labels).unwrap();
    let node = candidate(&json!({}));
    assert!(node.is_selected(&selector(json!({"pool": "lab", "rack": "1"}))));
    assert!(!node.is_selected(&selector(json!({"pool": "lab", "rack": "2"}))));
    assert!(!node.is_selected(&selector(json!({"hall": "1"}))));
}

fn used(cluster: &str) -> Fitness {
    Fitness::Used { cluster_uid: format!("{cluster}-uid"), cluster: format!("lab/{cluster}") }
}

fn counted(nodes: Vec<(&str, Fitness)>, reserved: &[(&str, i64)]) -> Counted {
    let reserved = reserved.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    count("Lab_4", ("lab", "a-uid"), nodes, &reserved)
}

#[test]
fn the_sentence_says_who_has_them_and_what_is_in_the_way() {
    let hindered = |why: &str| Fitness::Hindered(why.to_owned());
    let found = counted(
        vec![
            ("n-3", hindered("is cordoned")),
            ("n-1", used("b")),
            ("n-4", Fitness::TooSmall("has 0 of 4 nvidia.com/gpu".to_owned())),
            ("n-2", used("b")),
            ("n-5", used("a")),
        ],
        &[],
    );
    assert_eq!((found.free, found.matching), (0, 5));
    assert_eq!(
        found.message,
        "0 of 5 matching nodes are free: 2 are used by Cluster b, 1 is used by this Cluster, n-4 has 0 of 4 \
         nvidia.com/gpu, n-3 is cordoned"
    );
    let too_small = found.too_small.unwrap();
    assert_eq!(too_small.nodes, 1);
    assert!(too_small.message.starts_with("Lab_4 promises more than these nodes have"), "{too_small:?}");
    assert!(too_small.message.contains("n-4 has 0 of 4 nvidia.com/gpu"), "{too_small:?}");
}

#[test]
fn what_is_set_aside_for_another_cluster_is_not_free() {
    let fit = |name| (name, Fitness::Fit);
    let found = counted(vec![fit("n-1"), fit("n-2"), fit("n-3")], &[("lab/b", 2)]);
    assert_eq!(found.free, 1);
    assert_eq!(found.message, "1 of 3 matching nodes are free: 2 are used by Cluster b");
    let found = counted(vec![fit("n-1")], &[("lab/b", 2), ("lab/c", 1)]);
    assert_eq!(found.message, "0 of 1 matching nodes are free: 1 is used by Cluster b");
}

#[test]
fn clusters_of_other_namespaces_are_not_named() {
    let theirs =
        |cluster: &str| Fitness::Used { cluster_uid: "theirs".to_owned(), cluster: cluster.to_owned() };
    let nodes = vec![("n-1", theirs("vision/secret")), ("n-2", Fitness::Fit), ("n-3", theirs("speech/plan"))];
    let found = counted(nodes, &[("vision/secret", 1)]);
    assert_eq!(found.message, "0 of 3 matching nodes are free: 3 are used by Clusters of other namespaces");
}

#[test]
fn of_many_a_few_are_named() {
    let names: Vec<String> = (1..=6).map(|number| format!("n-{number}")).collect();
    let nodes = names.iter().map(|name| (name.as_str(), Fitness::Hindered("is not ready".to_owned())));
    let found = counted(nodes.collect(), &[]);
    assert_eq!(
        found.message,
        "0 of 6 matching nodes are free: n-1 is not ready, n-2 is not ready, n-3 is not ready, and 3 more"
    );
    let nodes = ["b", "c", "d", "e", "f"].map(|cluster| (cluster, used(cluster)));
    let found = counted(nodes.to_vec(), &[]);
    assert!(found.message.ends_with("1 is used by Cluster d, 2 are used by other Clusters"), "{found:?}");
}
