//! Machines come for runs, serve the next ones, and leave.

use anyhow::{Result, ensure};
use trainyard_api::run::Priority;
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::stories::{Story, cluster, placed_on, run};

#[tokio::test]
async fn from_nothing_to_two_machines_and_back_to_nothing() -> Result<()> {
    let story = Story::begin("from zero and back").await?;
    story.create_cluster(cluster("pool").idle_seconds(2)).await?;
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 0, "nothing is bought for nobody");

    story.submit(run("training").on("pool").nodes(2).lasting("10s")).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;
    let mut places = placed_on(&running);
    places.dedup();
    assert_eq!(places.len(), 2);
    assert_eq!(story.machines().await?.len(), 2);
    story.run_comes_to("training", RunPhase::Completed).await?;

    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 2, "two machines and no more were ever asked for");
    story.no_machine_is_left().await
}

#[tokio::test]
async fn the_next_run_takes_the_warm_machine() -> Result<()> {
    let story = Story::begin("warm reuse").await?;
    story.create_cluster(cluster("pool").idle_seconds(600)).await?;
    story.submit(run("first").on("pool").lasting("1s")).await?;
    let first = story.run_comes_to("first", RunPhase::Completed).await?;
    story.submit(run("second").on("pool").lasting("1s")).await?;
    let second = story.run_comes_to("second", RunPhase::Completed).await?;
    assert_eq!(placed_on(&second), placed_on(&first));
    let rested = story.cluster_rests_with("pool", 1).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 1);
    Ok(())
}

#[tokio::test]
async fn a_gang_of_four_waits_while_three_fit_and_takes_nothing() -> Result<()> {
    let story = Story::begin("gang of four").await?;
    story.create_cluster(cluster("pool").min(4).max(4)).await?;
    story.cluster_rests_with("pool", 4).await?;
    story.submit(run("holder").on("pool")).await?;
    story.run_comes_to("holder", RunPhase::Running).await?;

    story.submit(run("gang").on("pool").nodes(4).lasting("1s")).await?;
    story
        .run_shows("gang", "to wait for the fourth node", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesBusy))
        })
        .await?;
    // What it must never do cannot be waited for: it is watched while another run comes, works beside it and goes.
    story.submit(run("passing").on("pool").at_most("10s").lasting("1s").priority(Priority::High)).await?;
    let mut passed = false;
    while !passed {
        // In this order, so that the last look is of a time when the holder still ran.
        let passing = story.runs().get("passing").await?.status.unwrap_or_default();
        passed = passing.phase == Some(RunPhase::Completed);
        let taken = story.nodes_claimed_by("gang").await?;
        ensure!(taken == 0, "the gang has taken {taken} nodes while it cannot have four");
    }
    story.cancel("holder").await?;

    let gang = story.run_comes_to("gang", RunPhase::Completed).await?;
    let status = gang.status.unwrap();
    assert_eq!(status.attempts.len(), 1);
    assert_eq!(status.allocation.unwrap().nodes.len(), 4);
    let rested = story.cluster_rests_with("pool", 4).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 4);
    Ok(())
}
