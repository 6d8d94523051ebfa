//! The owner of a Cluster changes it while it works.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::NodeReason;
use trainyard_api::conditions::ConditionStatus;
use trainyard_api::names::event::EventReason;
use trainyard_api::run::{Priority, Run};
use trainyard_api::run_status::{AttemptCause, DirectiveReason, QueueReason, RunPhase, RunReason};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, ready, run};

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

/// Waits until these runs wait, in this order and with nobody before them.
async fn wait_in_order(story: &Story, names: [&str; 2]) -> Result<()> {
    let what = format!("Runs {names:?} to wait in this order");
    story
        .expect(&what, || async {
            for (name, position) in names.into_iter().zip(1..) {
                let status = story.runs().get(name).await?.status.unwrap_or_default();
                let place = status.queue.and_then(|queue| queue.position);
                ensure!(
                    status.phase == Some(RunPhase::Queued) && place == Some(position),
                    "{name} is {:?} at place {place:?}",
                    status.phase
                );
            }
            Ok(())
        })
        .await
}

/// Two equals and one machine, which the first loses: it waits at its old place, before the later one, and has the next
/// machine; the later one starts when it is done. Returns it as it runs again.
async fn keeps_its_place(story: &Story, first: &str, later: &str) -> Result<Run> {
    wait_in_order(story, [first, later]).await?;
    let again = story
        .run_shows(first, "to run a second time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    let waiting = story.runs().get(later).await?.status.unwrap_or_default();
    assert_eq!((waiting.phase, waiting.attempts.len()), (Some(RunPhase::Queued), 0), "{later}");
    story.cancel(first).await?;
    story.run_comes_to(later, RunPhase::Running).await?;
    Ok(again)
}

/// How the first attempt of a run ended.
fn first_end(run: &Run) -> Result<(Option<AttemptCause>, Option<String>)> {
    let attempts = run.status.as_ref().map(|status| status.attempts.as_slice()).unwrap_or_default();
    let first = attempts.first().context("it has no attempt")?;
    Ok((first.cause, first.reason.clone()))
}

/// Waits until an Event about the ClusterNode says that its machine was taken back, in words that begin so.
async fn is_told_preempted(story: &Story, node: &str, words: &str) -> Result<()> {
    story
        .expect("an Event about the machine's end", || async {
            let told = story.events_about(node).await?;
            let note = format!("{}: {words}", NodeReason::Preempted);
            let is_it = |(reason, said): &(String, String)| {
                reason == EventReason::MachineFailed.as_str() && said.starts_with(&note)
            };
            ensure!(told.iter().any(is_it), "{told:?}");
            Ok(())
        })
        .await
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
    story.create_cluster(cluster("pool").initial(2).idle_seconds(600)).await?;
    story
        .cluster_shows("pool", "to have two idle nodes", |cluster| {
            cluster.status.as_ref().is_some_and(|status| status.node_state_counts.idle == 2)
        })
        .await?;
    story.edit_cluster("pool", json!({"scale": {"idleSecondsBeforeScaleDown": 2}})).await?;
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

    story.edit_cluster("pool", json!({"hold": "None"})).await?;
    story.run_comes_to("waiting", RunPhase::Completed).await?;
    story.cluster_rests_with("pool", 0).await?;
    story.no_machine_is_left().await
}

#[tokio::test]
async fn a_frozen_cluster_keeps_what_it_has_asks_for_nothing_and_starts_nothing() -> Result<()> {
    let story = Story::begin("freeze").await?;
    story.create_cluster(cluster("pool").idle_seconds(2)).await?;
    story.submit(run("working").on("pool")).await?;
    story.run_comes_to("working", RunPhase::Running).await?;
    story.edit_cluster("pool", json!({"hold": "Freeze"})).await?;
    story
        .cluster_shows("pool", "to say that it is frozen", |cluster| {
            let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice());
            conditions.unwrap_or_default().iter().any(|one| one.message.contains("on hold (Freeze)"))
        })
        .await?;
    story.cancel("working").await?;
    story.run_comes_to("working", RunPhase::Canceled).await?;
    story
        .cluster_shows("pool", "to have an idle node", |cluster| {
            cluster.status.as_ref().is_some_and(|status| status.node_state_counts.idle == 1)
        })
        .await?;

    let one_idle_node = || async {
        let nodes = story.nodes_of("pool").await?;
        let [node] = &nodes[..] else { bail!("{} ClusterNodes", nodes.len()) };
        let spec = &node.spec;
        ensure!(spec.retired.is_none() && spec.released.is_none() && spec.claims.is_empty(), "{spec:?}");
        let machines = story.machines().await?.len();
        ensure!(machines == 1, "{machines} machines");
        let pool = story.clusters().get("pool").await?.status.unwrap_or_default();
        ensure!(pool.last_node_ordinal == 1, "{} nodes were asked for", pool.last_node_ordinal);
        Ok(())
    };
    // Nobody needs it, and its timer ends.
    story.stays_so("one idle node", Duration::from_secs(6), one_idle_node).await?;
    // A run and the minimum call for more.
    story.edit_cluster("pool", json!({"scale": {"minNodes": 2}})).await?;
    story.submit(run("waiting").on("pool").nodes(2).lasting("1s")).await?;
    waits_on_hold(&story, "waiting").await?;
    story.stays_so("one idle node beside a run that waits", Duration::from_secs(4), one_idle_node).await?;
    let waiting = story.runs().get("waiting").await?.status.context("it has a status")?;
    assert_eq!((waiting.phase, waiting.attempts.len()), (Some(RunPhase::Queued), 0));

    story.edit_cluster("pool", json!({"hold": "None", "scale": {"minNodes": 0}})).await?;
    story.run_comes_to("waiting", RunPhase::Completed).await?;
    let rested = story.cluster_rests_with("pool", 0).await?.status.context("it has a status")?;
    assert_eq!(rested.last_node_ordinal, 2, "what was kept has served");
    story.no_machine_is_left().await
}

#[tokio::test]
async fn what_runs_above_a_lowered_maximum_goes_on_to_its_end_when_its_owner_says_nothing() -> Result<()> {
    let story = Story::begin("deallocation by default").await?;
    story.create_cluster(cluster("pool").max(2).idle_seconds(600)).await?;
    story.submit(run("long").on("pool")).await?;
    story.submit(run("short").on("pool").lasting("15s")).await?;
    for name in ["long", "short"] {
        story.run_comes_to(name, RunPhase::Running).await?;
    }
    story.edit_cluster("pool", json!({"scale": {"maxNodes": 1}})).await?;
    story.submit(run("next").on("pool").lasting("1s")).await?;
    let seen = story
        .cluster_shows("pool", "to be above its maximum", |cluster| {
            let says = "1 node more than maxNodes 1, leaving when free";
            let status = cluster.status.clone().unwrap_or_default();
            status.node_state_counts.running == 2
                && status.conditions.iter().any(|one| one.message.contains(says))
        })
        .await?;
    assert_eq!(ready(&seen), ConditionStatus::Unknown, "it is at work on what was asked");

    let short = story.run_comes_to("short", RunPhase::Completed).await?;
    assert_eq!(first_end(&short)?.0, Some(AttemptCause::Succeeded));
    story.cluster_rests_with("pool", 1).await?;
    let of = async |name: &str| story.runs().get(name).await?.status.context("it has a status");
    let (long, next) = (of("long").await?, of("next").await?);
    assert_eq!((long.phase, long.attempts.len()), (Some(RunPhase::Running), 1));
    assert_eq!(
        (next.phase, next.attempts.len()),
        (Some(RunPhase::Queued), 0),
        "what shall leave starts nothing"
    );

    story.cancel("long").await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    let rested = story.cluster_rests_with("pool", 1).await?.status.context("it has a status")?;
    assert_eq!(rested.last_node_ordinal, 2, "no further machine was asked for");
    Ok(())
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
    story.submit(run("later").on("pool")).await?;

    story.edit_cluster("pool", json!({"scale": {"maxNodes": 2}})).await?;
    let young = story
        .run_shows("young", "to wait again at no cost", |status| {
            status.phase == Some(RunPhase::Queued)
                && status.attempts.first().is_some_and(|one| one.cause == Some(AttemptCause::Requeue))
        })
        .await?;
    assert_eq!(budgets(&young), (0, 0));
    story.cluster_rests_with("pool", 2).await?;
    wait_in_order(&story, ["young", "later"]).await?;

    // Priority decides before age: the old one goes, and for good this time.
    story.edit_cluster("pool", json!({"scale": {"deallocation": "Terminate", "maxNodes": 1}})).await?;
    let old = story.run_comes_to("old", RunPhase::Failed).await?.status.context("it has a status")?;
    assert_eq!(old.reason, Some(RunReason::Deallocated));
    let precious = story.runs().get("precious").await?.status.context("it has a status")?;
    assert_eq!((precious.phase, precious.attempts.len()), (Some(RunPhase::Running), 1));
    story.cluster_rests_with("pool", 1).await?;

    story.edit_cluster("pool", json!({"scale": {"maxNodes": 2}})).await?;
    story.run_comes_to("young", RunPhase::Running).await?;
    let later = story.runs().get("later").await?.status.context("it has a status")?;
    assert_eq!((later.phase, later.attempts.len()), (Some(RunPhase::Queued), 0));
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
    story.create_cluster(cluster("pool").max(1).idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let before = placed_on(&story.run_comes_to("training", RunPhase::Running).await?);
    story.submit(run("next").on("pool")).await?;

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
    let again = keeps_its_place(&story, "training", "next").await?;
    assert_ne!(placed_on(&again), before);
    let removed = Some(DirectiveReason::NodeRemoved.to_string());
    assert_eq!(first_end(&again)?, (Some(AttemptCause::Requeue), removed));
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
    story.create_cluster(cluster("pool").max(1).idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let before = placed_on(&story.run_comes_to("training", RunPhase::Running).await?);
    story.submit(run("next").on("pool")).await?;
    let node = node_of(&story, "training").await?;
    annotate(&story, "rehearse-preemption", &node).await?;
    let again = keeps_its_place(&story, "training", "next").await?;
    assert_ne!(placed_on(&again), before);
    let preempted = Some(DirectiveReason::NodePreempted.to_string());
    assert_eq!(first_end(&again)?, (Some(AttemptCause::Infrastructure), preempted));
    assert_eq!(budgets(&again), (0, 1));
    is_told_preempted(&story, &node, "taken away as if the cloud took it back").await
}

#[tokio::test]
async fn a_spot_machine_that_the_cloud_takes_back_costs_a_machine_failure_and_is_replaced() -> Result<()> {
    let story = Story::begin("spot").await?;
    story.create_cluster(cluster("pool").low_priority().max(1).idle_seconds(600)).await?;
    story.submit(run("training").on("pool")).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;
    let before = placed_on(&running);
    story.submit(run("next").on("pool")).await?;
    let node = node_of(&story, "training").await?;

    // The notice that a cloud's agent puts on a Node which it is about to take back.
    let taint = json!({"spec": {"taints": [{"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}]}});
    let machines: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(story.client.clone());
    machines.patch(&before[0], &PatchParams::default(), &Patch::Strategic(taint)).await?;
    let again = keeps_its_place(&story, "training", "next").await?;
    assert_ne!(placed_on(&again), before);
    let preempted = Some(DirectiveReason::NodePreempted.to_string());
    assert_eq!(first_end(&again)?, (Some(AttemptCause::Infrastructure), preempted));
    assert_eq!(budgets(&again), (0, 1));
    let words = "the cloud takes it back (taint cloud.google.com/impending-node-termination";
    is_told_preempted(&story, &node, words).await
}
