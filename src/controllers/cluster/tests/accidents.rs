//! Clusters that vanish or are made again, machines that are lost, nodes deleted by hand.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_api::names::labels;
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_api::{Cluster, ClusterNode, Run};
use trainyard_fake_apiserver::{Matching, Verb};

use super::world::{CLUSTER, NAMESPACE, Process, World};
use crate::clock::Clock as _;

/// A world in which `r1` runs on two nodes, and goes on for long.
async fn running() -> (World, Process) {
    let mut world = World::new();
    world.work = 30;
    let operator = world.start("a");
    world.submit("r1", 2);
    world.turns(6).await;
    assert_eq!(world.status("r1").phase, Some(RunPhase::Running), "{}", world.shown());
    (world, operator)
}

fn causes(world: &World, run: &str) -> Vec<AttemptCause> {
    world.status(run).attempts.iter().filter_map(|attempt| attempt.cause).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deleted_cluster_fails_its_runs_and_goes_when_its_nodes_are_gone() {
    let (world, _operator) = running().await;
    world.submit("waits", 4);
    world.turn().await;
    world.server.delete::<Cluster>(NAMESPACE, CLUSTER);
    world.turns(12).await;
    assert_eq!(causes(&world, "r1"), [AttemptCause::ClusterDeleted]);
    assert_eq!(world.status("r1").phase, Some(RunPhase::Failed));
    assert_eq!(
        world.status("waits").phase,
        Some(RunPhase::Queued),
        "it may be served by a Cluster of that name"
    );
    assert!(world.server.get::<Cluster>(NAMESPACE, CLUSTER).is_none(), "{}", world.shown());
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_removed_by_force_leaves_no_node_and_no_run_behind() {
    let (world, _operator) = running().await;
    world.server.remove::<Cluster>(NAMESPACE, CLUSTER);
    world.until_done().await;
    assert_eq!(causes(&world, "r1"), [AttemptCause::ClusterDeleted]);
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn runs_are_told_when_neither_cluster_nor_nodes_are_left() {
    let (world, operator) = running().await;
    drop(operator);
    world.server.remove::<Cluster>(NAMESPACE, CLUSTER);
    for node in world.nodes() {
        world.edit_node(&node.name_any(), |node| node.spec.claims.clear());
        world.server.remove::<ClusterNode>(NAMESPACE, &node.name_any());
    }
    let _operator = world.start("b");
    world.until_done().await;
    assert_eq!(causes(&world, "r1"), [AttemptCause::ClusterDeleted]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_made_again_under_its_name_gets_nodes_of_its_own() {
    let (world, _operator) = running().await;
    let old: Vec<String> = world.nodes().iter().map(ResourceExt::name_any).collect();
    world.server.remove::<Cluster>(NAMESPACE, CLUSTER);
    world.put_cluster();
    world.submit("r2", 2);
    for _ in 0..60 {
        world.turn().await;
        if world.is_over() {
            break;
        }
    }
    assert_eq!(causes(&world, "r1"), [AttemptCause::ClusterDeleted]);
    assert_eq!(causes(&world, "r2"), [AttemptCause::Succeeded]);
    let allocation = world.status("r2").allocation.unwrap_or_default();
    assert!(allocation.nodes.iter().all(|node| !old.contains(&node.name)), "{allocation:#?}");
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_machine_costs_its_run_one_attempt_and_is_replaced() {
    let (world, _operator) = running().await;
    let lost = world.status("r1").allocation.unwrap_or_default().nodes[0].name.clone();
    world.lose_machine(&lost);
    world.until_done().await;
    assert_eq!(causes(&world, "r1"), [AttemptCause::Infrastructure, AttemptCause::Succeeded]);
    let again = world.status("r1").allocation.unwrap_or_default();
    assert!(again.nodes.iter().all(|node| node.name != lost), "{again:#?}");
    world.until_empty().await;
    assert_eq!(world.cluster().status.unwrap_or_default().last_node_ordinal, 3);
}

#[tokio::test(start_paused = true)]
async fn a_node_deleted_by_hand_is_replaced_after_its_run() {
    let (world, _operator) = running().await;
    let deleted = world.status("r1").allocation.unwrap_or_default().nodes[0].name.clone();
    world.server.delete::<ClusterNode>(NAMESPACE, &deleted);
    world.submit("r2", 2);
    world.until_done().await;
    assert_eq!(causes(&world, "r1"), [AttemptCause::Succeeded]);
    let next = world.status("r2").allocation.unwrap_or_default();
    assert!(next.nodes.iter().all(|node| node.name != deleted), "{next:#?}");
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_suspended_while_it_waits_leaves_the_queue_and_its_clock() {
    let (world, _operator) = running().await;
    world.submit("r2", 4);
    world.turns(3).await;
    assert!(world.status("r2").queue.is_some(), "{}", world.shown());
    world.edit_run("r2", |run| run.spec.suspend = true);
    world.turns(4).await;
    assert_eq!(world.status("r2").queue, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.edit_run("r2", |run| run.spec.suspend = false);
    world.until_done().await;
    world.assert_all_completed(1);
    world.until_empty().await;
}

fn stray_pod(world: &World, namespace: &str, node: &str) {
    pod_of(world, namespace, node, "nobody");
}

fn pod_of(world: &World, namespace: &str, node: &str, run_uid: &str) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "left-over", "namespace": namespace, "labels": {labels::RUN_UID: run_uid}},
        "spec": {"containers": [], "nodeName": format!("vm-{node}")},
        "status": {"phase": "Running"},
    }))
    .expect("a pod");
    world.server.put(&pod);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_holds_a_node_is_named_and_looked_for_less_and_less_often() {
    let world = World::new();
    let _operator = world.start("a");
    world.submit("r1", 1);
    world.turns(4).await;
    let node = world.nodes()[0].name_any();
    stray_pod(&world, NAMESPACE, &node);
    stray_pod(&world, "elsewhere", &node);
    world.turns(180).await;
    let cluster: Cluster = world.server.get(NAMESPACE, CLUSTER).expect("the Cluster");
    let error = &cluster.status.expect("a status").errors[0];
    assert_eq!(error.code, ClusterErrorCode::NodesOccupied);
    assert!(error.message.contains("pod ml/left-over") && error.message.contains(&node), "{}", error.message);

    world.server.forget_requests();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let looks = world.server.count(&Matching::any().verb(Verb::List).resource("pods"));
    assert!((9..=11).contains(&looks), "{looks} looks in ten minutes");
    world.server.remove::<Pod>(NAMESPACE, "left-over");
    tokio::time::sleep(Duration::from_mins(1)).await;
    world.turns(3).await;
    world.until_empty().await;
    let cluster: Cluster = world.server.get(NAMESPACE, CLUSTER).expect("the Cluster");
    assert!(cluster.status.expect("a status").errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_vanished_run_keeps_its_machine_and_is_looked_for_without_haste() {
    let (world, _operator) = running().await;
    let node = world.status("r1").allocation.unwrap_or_default().nodes[0].name.clone();
    pod_of(&world, NAMESPACE, &node, &world.run("r1").uid().unwrap_or_default());
    world.server.remove::<Run>(NAMESPACE, "r1");
    world.turns(3).await;
    world.server.forget_requests();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let looks = world.server.count(&Matching::any().verb(Verb::List).resource("pods"));
    assert!((10..=70).contains(&looks), "{looks} looks in a minute");
    let holds =
        |node: &str| !world.nodes().iter().all(|one| one.name_any() != node || one.spec.claims.is_empty());
    assert!(holds(&node), "{}", world.shown());
    world.server.remove::<Pod>(NAMESPACE, "left-over");
    world.turns(6).await;
    assert!(!holds(&node), "{}", world.shown());
    world.until_empty().await;
}

/// Somebody has asked for this node to be removed.
fn remove(world: &World, node: &str) {
    let now = world.clock.now();
    world.edit_node(node, |node| {
        let reason = trainyard_api::cluster_node::RetireReason::Removed;
        node.spec.retired = Some(trainyard_api::cluster_node::Retired {
            time: trainyard_api::Time(now),
            reason,
            message: String::new(),
        });
    });
}

fn turn_unusable(world: &World, node: &str, why: NodeReason) {
    world.edit_node(node, |node| {
        let status = node.status.get_or_insert_default();
        (status.state, status.reason) = (Some(NodeState::Unusable), Some(why));
    });
}

fn is_released(world: &World, node: &str) -> bool {
    world.nodes().iter().all(|one| one.name_any() != node || one.spec.released.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_machine_told_to_go_that_is_lost_before_it_is_empty_goes_all_the_same() {
    let (world, _operator) = running().await;
    let node = world.status("r1").allocation.unwrap_or_default().nodes[0].name.clone();
    pod_of(&world, NAMESPACE, &node, &world.run("r1").uid().unwrap_or_default());
    remove(&world, &node);
    world.turns(2).await;
    // Silent for good: its Node and the pod on it stay as they are.
    turn_unusable(&world, &node, NodeReason::Lost);
    world.turns(20).await;
    assert!(is_released(&world, &node), "{}", world.shown());
}

#[tokio::test(start_paused = true)]
async fn a_machine_told_to_go_that_somebody_deletes_before_it_is_empty_is_not_taken_for_lost() {
    let (world, _operator) = running().await;
    let node = world.status("r1").allocation.unwrap_or_default().nodes[0].name.clone();
    pod_of(&world, NAMESPACE, &node, &world.run("r1").uid().unwrap_or_default());
    remove(&world, &node);
    world.turns(20).await;
    let is_free = |one: &ClusterNode| one.name_any() != node || one.spec.claims.is_empty();
    assert!(world.nodes().iter().all(is_free) && !is_released(&world, &node), "{}", world.shown());
    // Its kubelet answers, and what it runs has not ended.
    turn_unusable(&world, &node, NodeReason::MachineDeleted);
    world.turns(200).await;
    assert!(!is_released(&world, &node), "{}", world.shown());
    world.server.remove::<Pod>(NAMESPACE, "left-over");
    tokio::time::sleep(Duration::from_mins(1)).await;
    world.turns(3).await;
    assert!(is_released(&world, &node), "{}", world.shown());
}
