//! Who goes first, who may slip in between, and who leaves the queue.

use anyhow::{Result, ensure};
use trainyard_api::run::Priority;
use trainyard_api::run_status::{AttemptCause, QueueReason, RunPhase};
use trainyard_e2e::stories::{Story, budgets, cluster, run, started};

#[tokio::test]
async fn a_high_run_overtakes_those_that_wait_and_disturbs_none_that_runs() -> Result<()> {
    let story = Story::begin("high overtakes").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("running").on("pool").lasting("5s")).await?;
    story.run_comes_to("running", RunPhase::Running).await?;
    story.submit(run("a-low").on("pool").lasting("1s").priority(Priority::Low)).await?;
    story.submit(run("b-normal").on("pool").lasting("1s")).await?;
    let place = |name: &'static str, position| {
        story.run_shows(name, "to have its place", move |status| {
            status.queue.as_ref().is_some_and(|queue| queue.position == Some(position))
        })
    };
    place("b-normal", 1).await?;
    place("a-low", 2).await?;
    story.submit(run("c-high").on("pool").lasting("1s").priority(Priority::High)).await?;
    place("c-high", 1).await?;
    place("b-normal", 2).await?;

    let running = story.run_comes_to("running", RunPhase::Completed).await?;
    assert_eq!(running.status.as_ref().unwrap().attempts.len(), 1, "it was not disturbed");
    let high = started(&story.run_comes_to("c-high", RunPhase::Completed).await?)?;
    let normal = started(&story.run_comes_to("b-normal", RunPhase::Completed).await?)?;
    let low = started(&story.run_comes_to("a-low", RunPhase::Completed).await?)?;
    assert!(high < normal && normal < low, "high {high}, normal {normal}, low {low}");
    Ok(())
}

#[tokio::test]
async fn a_short_run_with_a_limit_is_done_before_the_gang_can_start_and_one_without_waits() -> Result<()> {
    let story = Story::begin("backfill").await?;
    story.create_cluster(cluster("pool").min(4).max(4)).await?;
    story.cluster_rests_with("pool", 4).await?;
    // The user says that two nodes are free after two minutes at most; kwok says after twelve seconds.
    story.submit(run("long").on("pool").nodes(2).at_most("120s").lasting("12s")).await?;
    story.run_comes_to("long", RunPhase::Running).await?;
    story.submit(run("gang").on("pool").nodes(4).lasting("1s")).await?;
    let waits = |name: &'static str, reason| {
        story.run_shows(name, "to say what it waits for", move |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(reason))
        })
    };
    waits("gang", QueueReason::NodesBusy).await?;
    story.submit(run("limitless").on("pool").lasting("1s")).await?;
    story.submit(run("short").on("pool").at_most("30s").lasting("1s")).await?;

    story.run_comes_to("short", RunPhase::Completed).await?;
    waits("limitless", QueueReason::Reserved).await?;
    let long = story.runs().get("long").await?.status.unwrap();
    ensure!(long.phase == Some(RunPhase::Running), "the long run ended before the short one was done");

    let gang = story.run_comes_to("gang", RunPhase::Completed).await?;
    let limitless = story.run_comes_to("limitless", RunPhase::Completed).await?;
    assert!(started(&gang)? <= started(&limitless)?);
    let freed = story.runs().get("long").await?.status.unwrap().attempts[0].end_time.clone().unwrap().0;
    let delay = started(&gang)?.duration_since(freed);
    assert!(
        delay < jiff::SignedDuration::from_secs(20),
        "the gang started {delay} after its nodes were free"
    );
    Ok(())
}

#[tokio::test]
async fn a_run_is_cancelled_while_queued_while_preparing_and_while_running() -> Result<()> {
    let story = Story::begin("cancel").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("running").on("pool")).await?;
    story.submit(run("preparing").on("pool").starting_after("1h")).await?;
    story.run_comes_to("running", RunPhase::Running).await?;
    story.run_comes_to("preparing", RunPhase::Preparing).await?;
    story.submit(run("queued").on("pool")).await?;
    story
        .run_shows("queued", "to wait for the others", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesBusy))
        })
        .await?;

    for name in ["queued", "preparing", "running"] {
        story.cancel(name).await?;
        let canceled = story.run_comes_to(name, RunPhase::Canceled).await?;
        assert_eq!(budgets(&canceled), (0, 0), "{name}");
        let attempts = canceled.status.unwrap().attempts;
        if name == "queued" {
            assert!(attempts.is_empty(), "{attempts:?}");
        } else {
            assert_eq!(attempts[0].cause, Some(AttemptCause::Canceled), "{name}");
            assert!(attempts[0].pods_gone, "{name}");
        }
        // A change of mind comes too late.
        story.edit_run(name, serde_json::json!({"cancel": false})).await?;
    }
    story.cluster_rests_with("pool", 2).await?;
    story.submit(run("next").on("pool").nodes(2).lasting("1s")).await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    for name in ["queued", "preparing", "running"] {
        assert_eq!(story.runs().get(name).await?.status.unwrap().phase, Some(RunPhase::Canceled));
    }
    Ok(())
}

#[tokio::test]
async fn a_run_cancelled_before_its_machine_came_gives_the_machine_back() -> Result<()> {
    use trainyard_e2e::controlplane::{LaunchError, Refusal};
    let story = Story::begin("cancel before the machine").await?;
    // The cloud keeps the order and does not deliver.
    let size = "Standard_F4s_v2";
    let never = Refusal {
        id: "cancelled".to_owned(),
        instance_type: Some(size.to_owned()),
        error: LaunchError::Other("AllocationPending".to_owned()),
        message: "still looking".to_owned(),
        ..Refusal::default()
    };
    let _refusing = story.stage.cloud_refuses(never)?;
    story.create_cluster(cluster("pool").of_size(size)).await?;
    story.submit(run("impatient").on("pool").nodes(2)).await?;
    story
        .run_shows("impatient", "to wait for its machines", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesPreparing))
        })
        .await?;
    story.cancel("impatient").await?;
    story.run_comes_to("impatient", RunPhase::Canceled).await?;
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 2);
    Ok(())
}

#[tokio::test]
async fn a_suspended_run_gives_its_nodes_to_others_and_comes_back_at_no_cost() -> Result<()> {
    let story = Story::begin("suspend").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("first").on("pool").lasting("30s")).await?;
    story.run_comes_to("first", RunPhase::Running).await?;
    story.edit_run("first", serde_json::json!({"suspend": true})).await?;
    story.run_comes_to("first", RunPhase::Suspended).await?;
    story.submit(run("second").on("pool").lasting("1s")).await?;
    story.run_comes_to("second", RunPhase::Completed).await?;

    story.edit_run("first", serde_json::json!({"suspend": false})).await?;
    let again = story.run_comes_to("first", RunPhase::Running).await?;
    assert_eq!(budgets(&again), (0, 0));
    let attempts = &again.status.as_ref().unwrap().attempts;
    assert_eq!(attempts[0].cause, Some(AttemptCause::Suspended));
    assert_eq!(attempts.len(), 2);
    story.cancel("first").await?;
    story.run_comes_to("first", RunPhase::Canceled).await?;
    assert_eq!(
        story.clusters().get("pool").await?.status.unwrap().last_node_ordinal,
        1,
        "one machine did it all"
    );
    Ok(())
}
