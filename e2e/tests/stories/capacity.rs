//! The cloud has no machines.

use anyhow::Result;
use trainyard_api::cluster::{BackoffCause, ClusterErrorCode};
use trainyard_api::run_status::{HoldReason, QueueReason, RunPhase};
use trainyard_e2e::controlplane::Refusal;
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

#[tokio::test]
async fn a_stock_out_is_said_waited_out_and_over() -> Result<()> {
    let story = Story::begin("stock-out").await?;
    let size = "Standard_F8s_v2";
    let stock_out = Refusal {
        id: "stock-out".to_owned(),
        instance_type: Some(size.to_owned()),
        message: "no F8s_v2 left in any zone".to_owned(),
        ..Refusal::default()
    };
    let refusing = story.stage.cloud_refuses(stock_out)?;
    story.create_cluster(cluster("pool").of_size(size)).await?;
    story.submit(run("training").on("pool").lasting("1s")).await?;

    let backing_off = story
        .cluster_shows("pool", "to say that it backs off", |cluster| {
            cluster.status.as_ref().is_some_and(|status| !status.backoff.is_empty())
        })
        .await?;
    let status = backing_off.status.unwrap();
    assert_eq!(status.backoff[0].cause, BackoffCause::StockOut);
    assert_eq!(status.backoff[0].count, 1);
    assert_eq!(status.errors[0].code, ClusterErrorCode::StockOut);
    assert!(status.errors[0].message.contains("no F8s_v2 left in any zone"), "{}", status.errors[0].message);
    let waiting = story
        .run_shows("training", "to say that it waits for capacity", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::CapacityBackoff))
        })
        .await?;
    assert!(waiting.status.unwrap().queue.unwrap().message.is_some_and(|message| !message.is_empty()));

    refusing.ends();
    let done = story.run_comes_to("training", RunPhase::Completed).await?;
    assert_eq!(budgets(&done), (0, 0), "a machine that did not come costs a run nothing");
    let recovered = story.cluster_rests_with("pool", 1).await?.status.unwrap();
    assert!(recovered.backoff.is_empty() && recovered.errors.is_empty(), "{recovered:?}");
    assert_eq!(recovered.last_node_ordinal, 2, "it asked once, waited, and asked once more");
    Ok(())
}

#[tokio::test]
async fn half_a_gang_is_given_back_and_serves_others_while_the_gang_is_held() -> Result<()> {
    let story = Story::begin("gang timeout").await?;
    let size = "Standard_E4s_v5";
    let only_one = Refusal {
        id: "gang".to_owned(),
        instance_type: Some(size.to_owned()),
        message: "only one E4s_v5 was left".to_owned(),
        remaining: Some(1),
        ..Refusal::default()
    };
    let _refusing = story.stage.cloud_refuses(only_one)?;
    story.create_cluster(cluster("pool").of_size(size).idle_seconds(600)).await?;
    story.submit(run("gang").on("pool").nodes(2).gang_timeout("5s").lasting("1s")).await?;

    let held = story
        .run_shows("gang", "to be held", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::CapacityHold))
        })
        .await?;
    let passed_over = held.status.unwrap().queue.unwrap().hold.unwrap();
    assert_eq!((passed_over.count, passed_over.reason), (1, HoldReason::GangTimeout));

    // What the gang had bought is no longer kept for it: another run starts there at once.
    story.submit(run("single").on("pool").lasting("1s")).await?;
    let single = story.run_comes_to("single", RunPhase::Completed).await?;
    assert_eq!(placed_on(&single).len(), 1);
    let gang = story.runs().get("gang").await?.status.unwrap();
    assert_eq!(gang.phase, Some(RunPhase::Queued));
    assert!(gang.allocation.is_none(), "{gang:?}");
    let asked = story.clusters().get("pool").await?.status.unwrap().last_node_ordinal;
    assert_eq!(asked, 2, "nothing further is bought for a gang that is held");
    Ok(())
}
