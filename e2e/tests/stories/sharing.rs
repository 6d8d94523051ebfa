//! Several Runs on one machine, and gangs of whole machines beside them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;
use trainyard_api::names::labels;
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::stories::{Story, cluster, placed_on, run};

/// Eight accelerators each.
const EIGHT_GPUS: &str = "Standard_ND96asr_v4";

#[tokio::test]
async fn eight_runs_of_one_accelerator_fill_a_machine_beside_a_gang_of_two_machines() -> Result<()> {
    let story = Story::begin("sharing").await?;
    story.create_cluster(cluster("pool").of_size(EIGHT_GPUS).max(3).idle_seconds(600)).await?;
    let small: Vec<String> = (1..=8).map(|number| format!("small-{number}")).collect();
    for name in &small {
        story
            .submit(run(name).on("pool").taking(json!({"accelerators": 1, "cpu": 4, "memory": "16Gi"})))
            .await?;
    }
    let mut shared = BTreeSet::new();
    for name in &small {
        shared.extend(placed_on(&story.run_comes_to(name, RunPhase::Running).await?));
    }
    assert_eq!(shared.len(), 1, "eight accelerators are one machine: {shared:?}");

    story.submit(run("gang").on("pool").nodes(2).lasting("1s")).await?;
    let gang = story.run_comes_to("gang", RunPhase::Completed).await?;
    let whole: BTreeSet<_> = placed_on(&gang).into_iter().collect();
    assert_eq!((whole.len(), whole.is_disjoint(&shared)), (2, true), "{whole:?} beside {shared:?}");

    // What is left of the machine has cpu and no accelerator: one who asks for no more gets it, and sees none of theirs.
    story.submit(run("preparation").on("pool").taking(json!({"cpu": 8, "memory": "8Gi"}))).await?;
    let preparation = story.run_comes_to("preparation", RunPhase::Running).await?;
    assert_eq!(placed_on(&preparation), Vec::from_iter(shared.clone()), "it fills up what is in use");
    assert_eq!(accelerators(&story, "preparation").await?, (0, true));
    let mut visible = 0;
    for name in &small {
        let (count, hidden) = accelerators(&story, name).await?;
        ensure!(!hidden, "{name} does not see its own accelerator");
        visible += count;
    }
    assert_eq!(visible, 8, "each has one of its own");

    // As a newcomer to the queue sees it: the place of one that leaves is taken, and nothing is bought.
    story.cancel("small-1").await?;
    story
        .submit(run("ninth").on("pool").taking(json!({"accelerators": 1, "cpu": 4, "memory": "16Gi"})))
        .await?;
    story.run_comes_to("small-1", RunPhase::Canceled).await?;
    story.run_comes_to("ninth", RunPhase::Running).await?;
    assert_eq!(story.machines().await?.len(), 3);
    let status = story.clusters().get("pool").await?.status.context("the Cluster has a status")?;
    assert_eq!(status.last_node_ordinal, 3, "one machine for the small runs, two for the gang");
    let capacity = status.node_capacity.context("the machines were measured")?;
    assert_eq!(capacity.accelerators["nvidia.com/gpu"], 8);
    Ok(())
}

#[tokio::test]
async fn a_gang_of_whole_machines_is_not_starved_by_small_runs() -> Result<()> {
    let story = Story::begin("no starvation").await?;
    story.create_cluster(cluster("pool").of_size(EIGHT_GPUS).min(2).max(2)).await?;
    story.cluster_rests_with("pool", 2).await?;
    let one = json!({"accelerators": 1});
    story.submit(run("early").on("pool").taking(one.clone())).await?;
    story.run_comes_to("early", RunPhase::Running).await?;

    story.submit(run("gang").on("pool").nodes(2).lasting("1s")).await?;
    waits_for(&story, "gang", QueueReason::NodesBusy).await?;
    // Fifteen accelerators are free, and the gang would wait for ever if small runs took them one after the other.
    story.submit(run("late").on("pool").taking(one.clone()).lasting("1s")).await?;
    waits_for(&story, "late", QueueReason::BehindOthers).await?;
    assert_eq!(story.nodes_claimed_by("late").await?, 0);
    // One that is too large for any machine says so, and holds nobody up.
    story.submit(run("huge").on("pool").taking(json!({"accelerators": 9}))).await?;
    let huge = story
        .run_shows("huge", "to say that no machine has so much", |status| {
            status.message.as_ref().is_some_and(|message| message.contains("asks for 9 nvidia.com/gpu"))
        })
        .await?;
    let message = huge.status.and_then(|status| status.message).unwrap_or_default();
    ensure!(message.contains("a node of its Cluster has 8"), "{message}");

    story.cancel("early").await?;
    let gang = story.run_comes_to("gang", RunPhase::Completed).await?;
    let late = story.run_comes_to("late", RunPhase::Completed).await?;
    let launched = |run: &trainyard_api::Run| {
        let attempt = run.status.as_ref().and_then(|status| status.attempts.first());
        attempt.and_then(|attempt| attempt.launched.clone()).map(|time| time.0)
    };
    ensure!(launched(&gang) < launched(&late), "the gang came first");
    Ok(())
}

async fn waits_for(story: &Story, name: &str, reason: QueueReason) -> Result<()> {
    let what = format!("to wait for {reason:?}");
    let waits = move |queue: &trainyard_api::run_status::RunQueue| queue.reason == Some(reason);
    story.run_shows(name, &what, |status| status.queue.as_ref().is_some_and(waits)).await?;
    Ok(())
}

/// How many accelerators the one pod of a Run has, and whether all others are hidden from it.
async fn accelerators(story: &Story, name: &str) -> Result<(i64, bool)> {
    let ours = ListParams::default().labels(&format!("{}={name}", labels::RUN));
    let pods: Vec<Pod> = story.pods().list(&ours).await?.items;
    let spec = pods.first().and_then(|pod| pod.spec.as_ref()).context("it has a pod")?;
    let main = spec.containers.first().context("with a container")?;
    let limits = main.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let count =
        limits.and_then(|limits| limits.get("nvidia.com/gpu")).map_or(Ok(0), |count| count.0.parse())?;
    let variables = main.env.iter().flatten();
    let hidden = variables
        .filter(|one| one.name == "NVIDIA_VISIBLE_DEVICES")
        .any(|one| one.value.as_deref() == Some("void"));
    Ok((count, hidden))
}
