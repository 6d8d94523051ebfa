//! What fails, whose fault it is, and what follows.

use anyhow::Result;
use trainyard_api::run_status::{AttemptCause, RunPhase, RunReason};
use trainyard_e2e::controlplane::{lose_node, remove_node};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

#[tokio::test]
async fn a_node_deleted_under_a_run_costs_a_machine_failure_and_not_the_run() -> Result<()> {
    let story = Story::begin("node deleted under a run").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("training").on("pool").lasting("40s")).await?;
    let first = story.run_comes_to("training", RunPhase::Running).await?;
    let lost = placed_on(&first)[0].clone();

    remove_node(&story.client, &lost).await?;
    let second = story
        .run_shows("training", "to run a second time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&second)[0], lost, "the second attempt is elsewhere");
    let done = story.run_comes_to("training", RunPhase::Completed).await?;
    assert_eq!(budgets(&done), (0, 1), "user 0, infrastructure 1");
    let attempts = done.status.unwrap().attempts;
    assert_eq!(attempts[0].cause, Some(AttemptCause::Infrastructure));
    assert_eq!(attempts[1].cause, Some(AttemptCause::Succeeded));
    Ok(())
}

#[tokio::test]
async fn a_program_that_fails_is_tried_as_often_as_its_user_allows() -> Result<()> {
    let story = Story::begin("user code").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("recovers").on("pool").lasting("1s").exiting("3,0").user_retries(1)).await?;
    story.submit(run("stubborn").on("pool").lasting("1s").exiting("3").user_retries(1)).await?;

    let recovered = story.run_comes_to("recovers", RunPhase::Completed).await?;
    assert_eq!(budgets(&recovered), (1, 0));
    let status = recovered.status.unwrap();
    assert_eq!(status.attempts[0].cause, Some(AttemptCause::UserCode));
    assert_eq!(status.attempts[0].exit_code, Some(3));
    assert_eq!(status.exit_code, Some(0));

    let failed = story.run_comes_to("stubborn", RunPhase::Failed).await?;
    assert_eq!(budgets(&failed), (2, 0));
    let status = failed.status.unwrap();
    assert_eq!(status.reason, Some(RunReason::UserCode));
    assert_eq!(status.exit_code, Some(3));
    assert_eq!(status.attempts.len(), 2);

    let rested = story.cluster_shows("pool", "to be free again", |cluster| {
        cluster.status.as_ref().is_some_and(|status| status.node_state_counts.running == 0)
    });
    let ordinal = rested.await?.status.unwrap().last_node_ordinal;
    assert!(ordinal <= 2, "a program's failure buys no machine: {ordinal}");
    Ok(())
}

#[tokio::test]
async fn a_machine_that_falls_silent_is_lost_after_a_minute_and_its_run_goes_on_elsewhere() -> Result<()> {
    let story = Story::begin("silent machine").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("training").on("pool")).await?;
    let first = story.run_comes_to("training", RunPhase::Running).await?;
    let silent = placed_on(&first)[0].clone();
    lose_node(&story.client, &silent).await?;

    let second = story
        .run_shows("training", "to run a second time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&second)[0], silent);
    assert_eq!(budgets(&second), (0, 1), "user 0, infrastructure 1");
    story.cancel("training").await?;
    story.run_comes_to("training", RunPhase::Canceled).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_that_takes_longer_than_its_limit_is_ended() -> Result<()> {
    let story = Story::begin("wall clock").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("endless").on("pool").at_most("2s").user_retries(3)).await?;
    let failed = story.run_comes_to("endless", RunPhase::Failed).await?;
    assert_eq!(budgets(&failed), (0, 0));
    let status = failed.status.unwrap();
    assert_eq!(status.reason, Some(RunReason::WallClock));
    assert_eq!(status.attempts.len(), 1, "a time limit is not retried");
    story.submit(run("next").on("pool").lasting("1s")).await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    Ok(())
}
