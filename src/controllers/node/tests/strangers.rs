//! Pods on a node that are no run's: what they take is measured, before the first run and after each.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trainyard_api::ClusterNode;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_api::names::labels;
use trainyard_fake_apiserver::{Matching, Verb, When};

use super::world::{Lab, NAMESPACE, pass};

/// A pod that carries no label of ours.
fn stranger(lab: &Lab, name: &str, node: &str, requests: &Value) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}], "nodeName": format!("vm-{node}")},
        "status": {"phase": "Running"},
    }))
    .unwrap();
    lab.server.put(&pod);
}

/// A pod that says of itself that it is of Run `mnist`, of which the node's claims are.
fn disguised(lab: &Lab, name: &str, namespace: &str, node: &str, requests: &Value) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {labels::RUN: "mnist", labels::RUN_UID: "run"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}], "nodeName": format!("vm-{node}")},
        "status": {"phase": "Running"},
    }))
    .unwrap();
    lab.server.put(&pod);
}

fn claim(lab: &Lab, name: &str, attempts: &[i32]) {
    let claims = attempts.iter().map(|attempt| json!({
        "runNamespace": NAMESPACE, "runName": "mnist", "runUID": "run", "attempt": attempt, "share": {"cpuMillis": 1, "memoryBytes": 1, "pods": 1},
    }));
    let claims = serde_json::from_value(Value::Array(claims.collect())).unwrap();
    lab.server.edit(NAMESPACE, name, |node: &mut ClusterNode| node.spec.claims = claims);
}

#[tokio::test(start_paused = true)]
async fn what_a_kubelets_own_pods_take_is_known_before_the_first_run() {
    let lab = Lab::new();
    let plain = lab.ready(&lab.want(1)).await.allocatable.unwrap();
    stranger(&lab, "kube-proxy", "gpu-abcdef-2", &json!({"cpu": "100m"}));
    let beside = lab.ready(&lab.want(2)).await.allocatable.unwrap();
    assert_eq!(beside.cpu_millis, plain.cpu_millis - 100);
    assert_eq!(beside.pods, plain.pods - 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_measured_anew_when_a_run_that_found_no_place_has_left_it() {
    let mut lab = Lab::new();
    let name = lab.want(1);
    let before = lab.ready(&name).await.allocatable.unwrap();
    claim(&lab, &name, &[1]);
    lab.until(&name, NodeState::Running, NodeReason::Claimed).await;
    stranger(&lab, "somebodys", &name, &json!({"cpu": "1"}));
    // The next attempt may have the node in the same moment in which the last one leaves it.
    claim(&lab, &name, &[2]);
    pass(Duration::from_secs(2)).await;
    let after = lab.status(&name).allocatable.unwrap();
    assert_eq!(after.cpu_millis, before.cpu_millis - 1000);

    lab.crash();
    pass(Duration::from_secs(30)).await;
    assert_eq!(lab.status(&name).allocatable.unwrap(), after, "another process measures alike");
    let lists = Matching::any().verb(Verb::List).resource("pods");
    lab.server.forget_requests();
    pass(Duration::from_hours(1)).await;
    assert_eq!(lab.server.count(&lists), 0, "and does not ask for ever");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_accelerator_somebody_has_takes_runs_when_it_is_free_again() {
    let lab = Lab::new();
    stranger(&lab, "notebook", "gpu-abcdef-1", &json!({"nvidia.com/gpu": "1"}));
    let name = lab.want(1);
    let status = lab.until(&name, NodeState::Preparing, NodeReason::WaitingForAccelerators).await;
    assert!(
        status.message.unwrap().starts_with("0 of 1 nvidia.com/gpu are left: a pod of another namespace")
    );
    assert!(lab.server.remove::<Pod>("kube-system", "notebook"));
    pass(Duration::from_secs(31)).await;
    lab.ready(&name).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_labelled_as_a_runs_that_was_not_given_the_node_is_a_stranger() {
    let lab = Lab::new();
    let name = lab.want(1);
    let before = lab.ready(&name).await.allocatable.unwrap();
    claim(&lab, &name, &[1]);
    lab.until(&name, NodeState::Running, NodeReason::Claimed).await;
    // The attempt found no place beside it, and has left.
    disguised(&lab, "mnist-worker-0", "others", &name, &json!({"nvidia.com/gpu": "1"}));
    claim(&lab, &name, &[]);
    let status = lab.until(&name, NodeState::Idle, NodeReason::WaitingForAccelerators).await;
    assert!(status.message.unwrap().contains("a pod of another namespace"));

    // One that takes all cpu does not become the measure of what runs may ask for.
    disguised(&lab, "mnist-worker-0", "others", &name, &json!({"cpu": "5"}));
    let status = lab.until(&name, NodeState::Idle, NodeReason::TakenByOthers).await;
    assert_eq!(status.allocatable.as_ref(), Some(&before));

    assert!(lab.server.remove::<Pod>("others", "mnist-worker-0"));
    pass(Duration::from_secs(31)).await;
    assert_eq!(lab.ready(&name).await.allocatable.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_runs_own_pod_is_no_stranger_though_its_claim_came_after_this_look_had_begun() {
    let lab = Lab::new();
    let name = lab.want(1);
    let before = lab.ready(&name).await.allocatable.unwrap();
    claim(&lab, &name, &[1]);
    lab.until(&name, NodeState::Running, NodeReason::Claimed).await;
    let looks = lab.server.pause(Matching::any().verb(Verb::List).resource("pods"), When::Before);
    claim(&lab, &name, &[]);
    looks.reached().await;
    claim(&lab, &name, &[2]);
    let requests = json!({"cpu": "5", "nvidia.com/gpu": "1"});
    disguised(&lab, "mnist-worker-0-a2", NAMESPACE, &name, &requests);
    looks.release();
    let status = lab.until(&name, NodeState::Running, NodeReason::Claimed).await;
    assert_eq!(status.allocatable.as_ref(), Some(&before));
    pass(Duration::from_secs(2)).await;
    assert_eq!(lab.status(&name).allocatable.unwrap(), before);
}
