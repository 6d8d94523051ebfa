//! The owner of a Cluster changes it while it works.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::NodeState;
use trainyard_api::run::Priority;
use trainyard_api::run_status::{AttemptCause, QueueReason, RunPhase, RunReason};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

async fn annotate(story: &Story, key: &str, node: &str) -> Result<()> {
    let annotations =
        Patch::Merge(json!({"metadata": {"annotations": {format!("trainyard.dev/{key}"): node}}}));
    story.clusters().patch("pool", &PatchParams::default(), &annotations).await?;
    Ok(())
}

async fn waits_on_hold(story: &Story, name: &str) -> Result<()> {
    story
        .run_shows(name, "to say that the Cluster is on hold", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::ClusterOnHold))
        })
        .await?;
    Ok(())
}

/// The ClusterNode of the one machine that a run has.
async fn node_of(story: &Story, name: &str) -> Result<String> {
    let status = story.runs().get(name).await?.status.unwrap_or_default();
    let nodes = status.allocation.unwrap_or_default().nodes;
    nodes.first().map(|node| node.name.clone()).context("it has no node")
}

#[tokio::test]
async fn initial_nodes_come_with_the_cluster_once_and_leave_when_they_idle() -> Result<()> {
    let story = Story::begin("initial nodes").await?;
    story.create_cluster(cluster("pool").initial(2).idle_seconds(3)).await?;
    story
        .cluster_shows("pool", "to have two idle nodes", |cluster| {
            cluster.status.as_ref().is_some_and(|status| status.node_state_counts.idle == 2)
        })
        .await?;
    let rested = story.cluster_rests_with("pool", 0).await?.status.context("it has a status")?;
    assert_eq!((rested.last_node_ordinal, rested.initial_nodes_last_ordinal), (2, Some(2)));
    // Whatever else happens to it: they were for the beginning.
    story.edit_cluster("pool", json!({"scale": {"maxNodes": 3}})).await?;
    let rested = story.cluster_rests_with("pool", 0).await?.status.context("it has a status")?;
    assert_eq!(rested.last_node_ordinal, 2);
    story.no_machine_is_left().await
}

#[tokio::test]
async fn a_cluster_on_hold_starts_nothing_until_it_is_released() -> Result<()> {
    let story = Story::begin("hold").await?;
    story.create_cluster(cluster("pool").idle_seconds(2)).await?;
    story.submit(run("working").on("pool").lasting("5s")).await?;
    story.run_comes_to("working", RunPhase::Running).await?;

    story.edit_cluster("pool", json!({"hold": "NoNewRuns"})).await?;
    story.submit(run("waiting").on("pool").lasting("1s")).await?;
    waits_on_hold(&story, "waiting").await?;
    story.run_comes_to("working", RunPhase::Completed).await?;
    story.cluster_rests_with("pool", 0).await?;
    assert_eq!(story.nodes_claimed_by("waiting").await?, 0);

    // Frozen with a warm machine: its timer does not count.
    story.edit_cluster("pool", json!({"hold": "None"})).await?;
    story.run_comes_to("waiting", RunPhase::Completed).await?;
    story.edit_cluster("pool", json!({"hold": "Freeze"})).await?;
    story.submit(run("frozen").on("pool").lasting("1s")).await?;
    waits_on_hold(&story, "frozen").await?;
    let machines = story.machines().await?.len();
    story.edit_cluster("pool", json!({"scale": {"minNodes": 2}})).await?;
    waits_on_hold(&story, "frozen").await?;
    ensure!(story.machines().await?.len() == machines, "a frozen Cluster has other machines");
    story.edit_cluster("pool", json!({"hold": "None", "scale": {"minNodes": 0}})).await?;
    story.run_comes_to("frozen", RunPhase::Completed).await?;
    story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await
}

#[tokio::test]
async fn a_lowered_maximum_requeues_what_has_lost_least_or_ends_it() -> Result<()> {
    let story = Story::begin("deallocation").await?;
    story.create_cluster(cluster("pool").max(3).idle_seconds(600)).await?;
    story.edit_cluster("pool", json!({"scale": {"deallocation": "Requeue"}})).await?;
    story.submit(run("old").on("pool")).await?;
    story.run_comes_to("old", RunPhase::Running).await?;
    story.submit(run("precious").on("pool").priority(Priority::High)).await?;
    story.run_comes_to("precious", RunPhase::Running).await?;
    story.submit(run("young").on("pool")).await?;
    story.run_comes_to("young", RunPhase::Running).await?;

    story.edit_cluster("pool", json!({"scale": {"maxNodes": 2}})).await?;
    let young = story
        .run_shows("young", "to wait again at no cost", |status| {
            status.phase == Some(RunPhase::Queued)
                && status.attempts.first().is_some_and(|one| one.cause == Some(AttemptCause::Requeue))
        })
        .await?;
    assert_eq!(budgets(&young), (0, 0));
    story.cluster_rests_with("pool", 2).await?;

    // Priority decides before age: the old one goes, and for good this time.
    story.edit_cluster("pool", json!({"scale": {"deallocation": "Terminate", "maxNodes": 1}})).await?;
    let old = story.run_comes_to("old", RunPhase::Failed).await?.status.context("it has a status")?;
    assert_eq!(old.reason, Some(RunReason::Deallocated));
    let precious = story.runs().get("precious").await?.status.context("it has a status")?;
    assert_eq!((precious.phase, precious.attempts.len()), (Some(RunPhase::Running), 1));
    story.cluster_rests_with("pool", 1).await?;

    story.edit_cluster("pool", json!({"scale": {"maxNodes": 2}})).await?;
    story.run_comes_to("young", RunPhase::Running).await?;
    Ok(())
}

#[tokio::test]
async fn a_raised_minimum_brings_nodes_under_load_and_a_lowered_one_lets_them_go() -> Result<()> {
    let story = Story::begin("minimum").await?;
    story.create_cluster(cluster("pool").idle_seconds(2)).await?;
    story.submit(run("working").on("pool")).await?;
    story.run_comes_to("working", RunPhase::Running).await?;
    story.edit_cluster("pool", json!({"scale": {"minNodes": 3}})).await?;
    story
        .cluster_shows("pool", "to have two idle nodes beside the one that works", |cluster| {
            let counts = cluster.status.as_ref().map(|status| status.node_state_counts.clone());
            counts.is_some_and(|counts| (counts.running, counts.idle) == (1, 2))
        })
        .await?;
    story.edit_cluster("pool", json!({"scale": {"minNodes": 0}})).await?;
    story.cluster_rests_with("pool", 1).await?;
    let working = story.runs().get("working").await?.status.context("it has a status")?;
    assert_eq!((working.phase, working.attempts.len()), (Some(RunPhase::Running), 1));
    Ok(())
}

#[tokio::test]
async fn a_node_is_removed_on_request_whatever_runs_on_it() -> Result<()> {
    let story = Story::begin("remove now").await?;
    story.create_cluster(cluster("pool").idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let before = placed_on(&story.run_comes_to("training", RunPhase::Running).await?);

    // A slip of the pen is said, and does nothing.
    annotate(&story, "remove-now", "pool-1").await?;
    let error = story
        .cluster_shows("pool", "to say that there is no such node", |cluster| {
            let errors = cluster.status.as_ref().map(|status| status.errors.clone()).unwrap_or_default();
            errors.iter().any(|error| error.code == ClusterErrorCode::NodeToRemoveNotFound)
        })
        .await?;
    let message = error.status.map(|status| status.errors[0].message.clone()).unwrap_or_default();
    assert!(message.contains("trainyard.dev/remove-now names pool-1"), "{message}");

    let node = node_of(&story, "training").await?;
    annotate(&story, "remove-now", &node).await?;
    let again = story
        .run_shows("training", "to run elsewhere", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&again), before);
    assert_eq!(budgets(&again), (0, 0), "nobody's failure");
    let rested = story.cluster_rests_with("pool", 1).await?.status.context("it has a status")?;
    assert!(rested.errors.is_empty(), "{:?}", rested.errors);
    // The annotation is still there, and asks for a node that has gone: nothing more happens.
    assert_eq!(rested.last_node_ordinal, 2);
    Ok(())
}

#[tokio::test]
async fn a_preemption_can_be_rehearsed_and_costs_what_a_real_one_costs() -> Result<()> {
    let story = Story::begin("rehearsal").await?;
    story.create_cluster(cluster("pool").idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let before = placed_on(&story.run_comes_to("training", RunPhase::Running).await?);
    annotate(&story, "rehearse-preemption", &node_of(&story, "training").await?).await?;
    let again = story
        .run_shows("training", "to run elsewhere", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&again), before);
    assert_eq!(budgets(&again), (0, 1));
    Ok(())
}

#[tokio::test]
async fn a_spot_machine_that_the_cloud_takes_back_costs_a_machine_failure_and_is_replaced() -> Result<()> {
    let story = Story::begin("spot").await?;
    story.create_cluster(cluster("pool").low_priority().idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;
    let before = placed_on(&running);
    let node = node_of(&story, "training").await?;

    // The notice that a cloud's agent puts on a Node which it is about to take back.
    let taint = json!({"spec": {"taints": [{"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}]}});
    let machines: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(story.client.clone());
    machines.patch(&before[0], &PatchParams::default(), &Patch::Strategic(taint)).await?;
    story
        .expect("the node to be Preempted or gone", || async {
            let nodes = story.nodes_of("pool").await?;
            let found = nodes.iter().find(|one| one.name_any() == node);
            let state = found.and_then(|one| one.status.as_ref()?.state);
            ensure!(found.is_none() || state == Some(NodeState::Preempted), "it is {state:?}");
            Ok(())
        })
        .await?;
    let again = story
        .run_shows("training", "to run elsewhere", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&again), before);
    let first = again.status.as_ref().and_then(|status| status.attempts.first().cloned());
    assert_eq!(first.and_then(|one| one.cause), Some(AttemptCause::Infrastructure));
    assert_eq!(budgets(&again), (0, 1));
    Ok(())
}
