//! Nothing happens, and nothing is written.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::Instant;
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::controlplane::lose_node;
use trainyard_e2e::installation::OPERATOR;
use trainyard_e2e::stories::{Story, cluster, run};

#[tokio::test]
async fn with_three_clusters_twenty_nodes_and_twenty_finished_runs_nothing_is_written() -> Result<()> {
    let story = Story::begin_apart("at rest").await?;
    let sizes = [("first", 7), ("second", 7), ("third", 6)];
    for (name, nodes) in sizes {
        story.create_cluster(cluster(name).min(nodes).max(nodes)).await?;
    }
    // Timers that are far away are no reason to write.
    story.keep_runs("default", serde_json::json!({"maxAge": "24h", "maxCount": 100})).await?;
    for (name, nodes) in sizes {
        for number in 0..nodes {
            let draft = run(&format!("{name}-{number}")).on(name).lasting("1s");
            story.submit(draft.cleared_after("12h").starting_within("1h").in_all_at_most("2h")).await?;
        }
    }
    let ends =
        sizes.iter().flat_map(|(name, nodes)| (0..*nodes).map(move |number| format!("{name}-{number}")));
    let names: Vec<String> = ends.collect();
    try_join_all(names.iter().map(|name| story.run_comes_to(name, RunPhase::Completed))).await?;
    try_join_all(sizes.iter().map(|(name, nodes)| story.cluster_rests_with(name, *nodes))).await?;
    assert_eq!((names.len(), story.machines().await?.len()), (20, 20));

    nothing_is_written(&story).await
}

#[tokio::test]
async fn with_a_hall_in_use_a_run_that_waits_for_it_and_a_lost_machine_nothing_is_written() -> Result<()> {
    let story = Story::begin_apart("a hall at rest").await?;
    let hall = story.hall_of(3).await?;
    for name in ["first", "second"] {
        story.create_cluster(cluster(name).in_class(hall.class()).max(3)).await?;
    }
    story.submit(run("holder").on("first").nodes(2)).await?;
    story.run_comes_to("holder", RunPhase::Running).await?;
    story.create_cluster(cluster("third").in_class(hall.class()).min(1).max(1)).await?;
    story.cluster_rests_with("third", 1).await?;
    let machine = story.nodes_of("third").await?.remove(0).status.unwrap().node_name.unwrap();
    lose_node(&story.client, &machine).await?;
    story.submit(run("waiting").on("second").nodes(2)).await?;
    story
        .run_shows("waiting", "to wait for machines", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NoFreeMachines))
        })
        .await?;
    story
        .expect("the lost machine to be kept from use", || async {
            let nodes = story.nodes_of("third").await?;
            ensure!(nodes.iter().any(|node| node.spec.released.is_some()), "{nodes:?}");
            Ok(())
        })
        .await?;
    nothing_is_written(&story).await
}

/// For a minute, once what followed from the last change has been written: when nothing was for two seconds.
async fn nothing_is_written(story: &Story) -> Result<()> {
    let limit = Instant::now() + Duration::from_mins(1);
    while !writes_of_the_operator(story, Duration::from_secs(2)).await?.is_empty() && Instant::now() < limit {
    }
    let writes = writes_of_the_operator(story, Duration::from_mins(1)).await?;
    assert_eq!(writes, Vec::<String>::new(), "writes of the operator at rest");
    Ok(())
}

/// What the operator writes in this namespace, and about its machines, in that time. Its lease is elsewhere.
async fn writes_of_the_operator(story: &Story, time: Duration) -> Result<Vec<String>> {
    let mark = story.stage.plane.audit_mark().await?;
    tokio::time::sleep(time).await;
    story.stage.plane.audit_mark().await?;
    let events = story.stage.plane.audit_log()?.since(mark)?;
    let ours = events
        .iter()
        .filter(|event| event.user == OPERATOR && event.is_write() && event.resource != "leases");
    Ok(ours
        .map(|event| format!("{} {} {}/{}", event.verb, event.resource, event.namespace, event.name))
        .collect())
}
