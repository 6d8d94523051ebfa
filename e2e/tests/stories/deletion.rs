//! Whatever is deleted, in whatever state, goes; and what is somebody else's stays.

use anyhow::Result;
use kube::Api;
use kube::api::DeleteParams;
use trainyard_api::experiment::Experiment;
use trainyard_api::run_status::{AttemptCause, RunPhase, RunReason};
use trainyard_e2e::stories::{Story, cluster, placed_on, run};

#[tokio::test]
async fn two_clusters_of_one_name_in_two_namespaces_have_nothing_in_common() -> Result<()> {
    let here = Story::begin("one name").await?;
    let there = here.elsewhere("there").await?;
    for story in [&here, &there] {
        story.create_cluster(cluster("pool").max(1)).await?;
        story.submit(run("training").on("pool").lasting("3s")).await?;
    }
    let (mine, theirs) = (
        here.run_comes_to("training", RunPhase::Completed).await?,
        there.run_comes_to("training", RunPhase::Completed).await?,
    );
    assert_ne!(placed_on(&mine), placed_on(&theirs));
    for story in [&here, &there] {
        story.cluster_rests_with("pool", 1).await?;
        assert_eq!(story.machines().await?.len(), 1);
    }

    here.clusters().delete("pool", &DeleteParams::default()).await?;
    here.cluster_is_gone("pool").await?;
    here.no_machine_is_left().await?;
    assert_eq!(there.machines().await?.len(), 1);
    there.submit(run("again").on("pool").lasting("1s")).await?;
    let again = there.run_comes_to("again", RunPhase::Completed).await?;
    assert_eq!(placed_on(&again), placed_on(&theirs), "the other namespace keeps its warm machine");
    Ok(())
}

#[tokio::test]
async fn a_run_is_deleted_while_queued_preparing_and_running() -> Result<()> {
    let story = Story::begin("run deleted").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("running").on("pool")).await?;
    story.submit(run("preparing").on("pool").starting_after("1h")).await?;
    story.run_comes_to("running", RunPhase::Running).await?;
    story.run_comes_to("preparing", RunPhase::Preparing).await?;
    story.submit(run("queued").on("pool")).await?;
    story.run_shows("queued", "to be in the queue", |status| status.queue.is_some()).await?;
    for name in ["queued", "preparing", "running"] {
        story.runs().delete(name, &DeleteParams::default()).await?;
        story.run_is_gone(name).await?;
    }
    story.cluster_rests_with("pool", 2).await?;
    story.submit(run("next").on("pool").nodes(2).lasting("1s")).await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    story.runs().delete("next", &DeleteParams::default()).await?;
    story.run_is_gone("next").await
}

#[tokio::test]
async fn a_cluster_deleted_under_a_run_ends_the_run_and_the_queue_waits_for_another() -> Result<()> {
    let story = Story::begin("cluster deleted").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("a-running").on("pool")).await?;
    story.run_comes_to("a-running", RunPhase::Running).await?;
    story.submit(run("b-queued").on("pool").lasting("1s")).await?;
    story.run_shows("b-queued", "to be in the queue", |status| status.queue.is_some()).await?;

    story.clusters().delete("pool", &DeleteParams::default()).await?;
    let failed = story.run_comes_to("a-running", RunPhase::Failed).await?.status.unwrap();
    assert_eq!(failed.reason, Some(RunReason::ClusterDeleted));
    assert_eq!(failed.attempts[0].cause, Some(AttemptCause::ClusterDeleted));
    story.cluster_is_gone("pool").await?;
    story.no_machine_is_left().await?;
    story
        .run_shows("b-queued", "to miss its Cluster", |status| {
            status.reason == Some(RunReason::ClusterNotFound)
        })
        .await?;

    story.create_cluster(cluster("pool").max(1)).await?;
    story.run_comes_to("b-queued", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn a_namespace_goes_with_everything_in_it() -> Result<()> {
    let story = Story::begin("namespace deleted").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.create_cluster(cluster("kept").min(1).max(1)).await?;
    story.submit(run("running").on("pool").nodes(2)).await?;
    story.submit(run("done").on("kept").lasting("1s")).await?;
    story.run_comes_to("running", RunPhase::Running).await?;
    story.run_comes_to("done", RunPhase::Completed).await?;
    story.submit(run("queued").on("pool")).await?;
    story.submit(run("lost").on("nowhere")).await?;
    story.run_shows("queued", "to be in the queue", |status| status.queue.is_some()).await?;

    story.delete_namespace().await?;
    story.namespace_is_gone().await?;
    story.no_machine_is_left().await
}

#[tokio::test]
async fn a_node_deleted_by_hand_serves_its_run_to_the_end_and_is_replaced() -> Result<()> {
    let story = Story::begin("clusternode deleted").await?;
    story.create_cluster(cluster("pool").min(1).max(2)).await?;
    story.cluster_rests_with("pool", 1).await?;
    story.submit(run("training").on("pool").lasting("20s")).await?;
    story.run_comes_to("training", RunPhase::Running).await?;
    let old = story.nodes_of("pool").await?.remove(0).metadata.name.unwrap();
    story.cluster_nodes().delete(&old, &DeleteParams::default()).await?;

    let done = story.run_comes_to("training", RunPhase::Completed).await?;
    assert_eq!(done.status.unwrap().attempts.len(), 1, "the run was not disturbed");
    story
        .expect("the node to be replaced", || async {
            let nodes = story.nodes_of("pool").await?;
            anyhow::ensure!(
                nodes.len() == 1 && nodes[0].metadata.name.as_deref() != Some(old.as_str()),
                "{nodes:?}"
            );
            Ok(())
        })
        .await?;
    story.cluster_rests_with("pool", 1).await?;
    assert_eq!(story.machines().await?.len(), 1);
    Ok(())
}

/// Waits until the Experiment of Runs that name none is there, with that many of them completed; returns its UID.
async fn default_experiment(story: &Story, completed: i32) -> Result<String> {
    let experiments = Api::<Experiment>::namespaced(story.client.clone(), &story.namespace);
    story
        .expect(&format!("Experiment default with {completed} completed Runs"), || async {
            let experiment = experiments.get("default").await?;
            let counts = experiment.status.unwrap_or_default().runs;
            anyhow::ensure!(counts.completed == completed, "{counts:?}");
            Ok(experiment.metadata.uid.unwrap())
        })
        .await
}

#[tokio::test]
async fn an_experiment_that_is_deleted_disturbs_no_run_and_is_made_again_on_its_next_use() -> Result<()> {
    let story = Story::begin("experiment deleted").await?;
    let experiments = Api::<Experiment>::namespaced(story.client.clone(), &story.namespace);
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("a-running").on("pool").lasting("10s")).await?;
    story.run_comes_to("a-running", RunPhase::Running).await?;
    let first = default_experiment(&story, 0).await?;
    experiments.delete("default", &DeleteParams::default()).await?;
    story
        .expect("the Experiment to be made again for the Run that is at work", || async {
            let found = experiments.get_opt("default").await?;
            anyhow::ensure!(found.is_some_and(|one| one.metadata.uid != Some(first.clone())), "not yet");
            Ok(())
        })
        .await?;
    let done = story.run_comes_to("a-running", RunPhase::Completed).await?;
    assert_eq!(done.status.unwrap().attempts.len(), 1, "the run was not disturbed");

    let second = default_experiment(&story, 1).await?;
    experiments.delete("default", &DeleteParams::default()).await?;
    story
        .expect("the Experiment to be gone", || async {
            anyhow::ensure!(experiments.get_opt("default").await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    story.submit(run("b-next").on("pool").lasting("1s")).await?;
    story.run_comes_to("b-next", RunPhase::Completed).await?;
    assert_ne!(default_experiment(&story, 2).await?, second);
    Ok(())
}
