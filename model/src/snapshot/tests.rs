//! What the planner is told of Runs that take a part of a machine.

use serde_json::{Value, json};
use trainyard_api::run::Run;
use trainyard_api::{Cluster, cluster_node::ClusterNode};
use trainyard_planner::RequestedShare;

use super::*;
use crate::catalogue;
use crate::run::fixture;

fn cluster(status: &Value) -> Cluster {
    serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "nc6", "namespace": "ml", "uid": "c1"},
        "spec": {"vmSize": "S", "scale": {"maxNodes": 2}},
        "status": status,
    }))
    .expect("a Cluster")
}

/// A node of 8 promised cpus and accelerators, and 64 GiB.
fn node(status: &Value) -> LightNode {
    let node: ClusterNode = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "ClusterNode",
        "metadata": {"name": "n1", "namespace": "ml", "uid": "u1", "resourceVersion": "7",
                     "creationTimestamp": "2030-01-01T00:00:00Z"},
        "spec": {"cluster": {"name": "nc6", "uid": "c1"}, "ordinal": 1, "engine": {},
                 "vmSize": {"sizeName": "S", "vcpus": 8, "memory": "64Gi",
                            "accelerators": [{"resourceName": "nvidia.com/gpu", "count": 8, "product": "V100"}]},
                 "taint": {"key": "k", "effect": "NoSchedule"}},
        "status": status,
    }))
    .expect("a ClusterNode");
    LightNode::of(&node).expect("it has all metadata")
}

fn of_eight(cpu_millis: i64, gibibytes: i64) -> Value {
    json!({"cpuMillis": cpu_millis, "memoryBytes": gibibytes << 30, "pods": 100, "accelerators": {"nvidia.com/gpu": 8}})
}

fn one_eighth() -> LightRun {
    let mut run: Run = fixture::run(json!({"resourcesPerNode": {"accelerators": 1}}));
    run.metadata.resource_version = Some("1".to_owned());
    LightRun::of(&run).expect("it has all metadata")
}

/// The share that is asked for, and what a node has.
fn told(cluster: &Cluster, nodes: &[LightNode]) -> (RequestedShare, Capacity) {
    let gone = catalogue::cluster_gone();
    let mut run = one_eighth();
    run.wants_to_run = true;
    let snapshot = assemble(&World {
        cluster: Some(cluster),
        cluster_key: "ml/nc6",
        nodes: &nodes.iter().collect::<Vec<_>>(),
        runs: &[&run],
        catalogue: Err(&gone),
        nodes_elsewhere: 0,
        counted: None,
    });
    (snapshot.queued[0].share.clone(), snapshot.policy.node_capacity)
}

fn eighth_of(cpu_millis: i64, gibibytes: i64) -> RequestedShare {
    RequestedShare::Part(Capacity {
        cpu_millis: cpu_millis / 8,
        memory_bytes: (gibibytes << 30) / 8,
        pods: 1,
        accelerators: [("nvidia.com/gpu".to_owned(), 1)].into(),
    })
}

#[test]
fn a_part_is_of_what_the_least_of_the_nodes_was_measured_to_have() {
    let ready = |cpu| node(&json!({"state": "Idle", "allocatable": of_eight(cpu, 56)}));
    let remembered = cluster(&json!({"nodeCapacity": of_eight(7000, 48)}));
    let (share, capacity) = told(&remembered, &[ready(7904), ready(7800), node(&json!({}))]);
    assert_eq!(share, eighth_of(7800, 56));
    assert_eq!(capacity.cpu_millis, 7800, "what comes is thought to be like what is there");
}

#[test]
fn without_nodes_it_is_of_what_the_last_ones_had() {
    let remembered = cluster(&json!({"nodeCapacity": of_eight(7000, 48)}));
    assert_eq!(told(&remembered, &[]).0, eighth_of(7000, 48));
    assert_eq!(
        told(&remembered, &[node(&json!({}))]).0,
        eighth_of(7000, 48),
        "one that comes tells nothing yet"
    );
}

#[test]
fn before_the_first_node_it_is_of_what_the_size_promises() {
    assert_eq!(told(&cluster(&json!({})), &[node(&json!({}))]).0, eighth_of(8000, 64));
}

#[test]
fn where_nothing_is_known_there_is_nothing_to_take_a_part_of() {
    assert_eq!(told(&cluster(&json!({})), &[]), (RequestedShare::WholeNode, Capacity::default()));
}
