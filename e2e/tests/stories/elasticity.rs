//! Machines come for runs, serve the next ones, and leave.

use anyhow::{Result, ensure};
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::stories::{Story, cluster, placed_on, run};

#[tokio::test]
async fn from_nothing_to_two_machines_and_back_to_nothing() -> Result<()> {
    let story = Story::begin("from zero and back").await?;
    story.create_cluster(cluster("pool").idle_seconds(2)).await?;
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 0, "nothing is bought for nobody");

    story.submit(run("training").on("pool").nodes(2).lasting("2s")).await?;
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
    story.submit(run("holder").on("pool").lasting("8s")).await?;
    story.run_comes_to("holder", RunPhase::Running).await?;

    story.submit(run("gang").on("pool").nodes(4).lasting("1s")).await?;
    story
        .run_shows("gang", "to wait for the fourth node", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesBusy))
        })
        .await?;
    let mut looks = 0;
    loop {
        // In this order: a gang that takes nodes after the holder's end is seen after the holder's end.
        let taken = story.nodes_claimed_by("gang").await?;
        let holder = story.runs().get("holder").await?.status.unwrap();
        if holder.phase != Some(RunPhase::Running) {
            break;
        }
        ensure!(taken == 0, "the gang has taken {taken} nodes while it cannot have four");
        looks += 1;
    }
    assert!(looks > 3, "the gang was watched {looks} times only");

    let gang = story.run_comes_to("gang", RunPhase::Completed).await?;
    let status = gang.status.unwrap();
    assert_eq!(status.attempts.len(), 1);
    assert_eq!(status.allocation.unwrap().nodes.len(), 4);
    let rested = story.cluster_rests_with("pool", 4).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 4);
    Ok(())
}
