//! Machines that are there already: lent out, and given back as they were.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, PostParams};
use serde_json::json;
use trainyard_api::cluster::ClusterErrorCode;
use trainyard_api::cluster_node::{NodeReason, NodeState};
use trainyard_api::run_status::{QueueReason, RunPhase};
use trainyard_e2e::controlplane::{bring_back_node, lose_node};
use trainyard_e2e::installation::{NAMESPACE, RELEASE};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

#[tokio::test]
async fn a_hall_runs_a_job_and_its_machines_are_as_they_were() -> Result<()> {
    let story = Story::begin("a hall lends its machines").await?;
    let mut hall = story.hall_of(2).await?;
    hall.connect("old", &json!({"cpu": "2", "memory": "15500Mi", "pods": "110"})).await?;
    hall.mark("1", json!({"metadata": {"annotations": {"example.org/serviced": "2030-01-01"}}})).await?;
    let slow = json!([{"key": "example.org/slow-disk", "effect": "PreferNoSchedule"}]);
    hall.mark("2", json!({"spec": {"taints": slow}})).await?;
    story.create_cluster(cluster("pool").in_class(hall.class()).max(3).idle_seconds(1)).await?;

    story.submit(run("training").on("pool").nodes(2).lasting("2s")).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;
    let places: BTreeSet<_> = placed_on(&running).into_iter().collect();
    assert_eq!(places, BTreeSet::from([hall.machine("1"), hall.machine("2")]));
    let pool = story
        .cluster_shows("pool", "to name the machine that is too small", |pool| {
            let errors = pool.status.as_ref().map(|status| status.errors.as_slice()).unwrap_or_default();
            errors.iter().any(|error| error.code == ClusterErrorCode::NodesTooSmall)
        })
        .await?;
    let message = &pool.status.unwrap().errors[0].message;
    assert!(message.contains(&format!("{} has 2 of 4 cpus", hall.machine("old"))), "{message}");

    story.run_comes_to("training", RunPhase::Completed).await?;
    story.cluster_rests_with("pool", 0).await?;
    hall.is_as_it_was().await
}

#[tokio::test]
async fn two_clusters_compete_for_a_hall_and_no_machine_is_given_twice() -> Result<()> {
    let story = Story::begin("two clusters one hall").await?;
    let hall = story.hall_of(3).await?;
    for name in ["first", "second"] {
        story.create_cluster(cluster(name).in_class(hall.class()).max(3).idle_seconds(1)).await?;
    }
    story.submit(run("holder").on("first").nodes(2)).await?;
    story.run_comes_to("holder", RunPhase::Running).await?;
    story.submit(run("waiting").on("second").nodes(2).lasting("1s")).await?;
    let waiting = story
        .run_shows("waiting", "to wait for machines", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NoFreeMachines))
        })
        .await?;
    let message = waiting.status.unwrap().queue.unwrap().message.unwrap();
    let words = "1 of 3 matching nodes are free: 2 are used by Cluster first";
    assert!(message.ends_with(words), "{message}");
    assert!(story.nodes_of("second").await?.is_empty(), "half a gang takes nothing");
    // One that needs less takes what is there.
    story.submit(run("single").on("second").lasting("1s")).await?;
    story.run_comes_to("single", RunPhase::Completed).await?;

    story.cancel("holder").await?;
    story.run_comes_to("waiting", RunPhase::Completed).await?;

    // Both at once, again and again: gangs of two of three machines, so that each can only have them in turn.
    let runs: Vec<(String, &str)> = (0..6)
        .map(|number| (format!("turn-{number}"), if number % 2 == 0 { "first" } else { "second" }))
        .collect();
    for (name, pool) in &runs {
        story.submit(run(name).on(pool).nodes(2).lasting("1s")).await?;
    }
    let over = try_join_all(runs.iter().map(|(name, _)| story.run_comes_to(name, RunPhase::Completed)));
    let looking = async {
        loop {
            hall.nothing_is_given_twice().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let done = tokio::select! {
        over = over => over?,
        looked = looking => return looked,
    };
    for run in done {
        assert_eq!(
            run.status.as_ref().unwrap().attempts.len(),
            1,
            "no attempt was in vain: {:?}",
            run.status
        );
    }
    for name in ["first", "second"] {
        story.cluster_rests_with(name, 0).await?;
    }
    hall.is_as_it_was().await
}

#[tokio::test]
async fn a_lost_machine_is_kept_out_of_use_until_it_is_back_and_empty() -> Result<()> {
    let story = Story::begin("a machine is lost and back").await?;
    let hall = story.hall_of(2).await?;
    story.create_cluster(cluster("pool").in_class(hall.class()).max(2).idle_seconds(1)).await?;
    story.submit(run("training").on("pool")).await?;
    let first = story.run_comes_to("training", RunPhase::Running).await?;
    let lost = placed_on(&first)[0].clone();
    lose_node(&story.client, &lost).await?;

    let second = story
        .run_shows("training", "to run a second time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    assert_ne!(placed_on(&second)[0], lost);
    assert_eq!(budgets(&second), (0, 1), "user 0, infrastructure 1");
    let node = story
        .expect("the lost machine to be kept from use", || async {
            let nodes = story.nodes_of("pool").await?;
            let kept = nodes.into_iter().find(|node| {
                node.status.as_ref().is_some_and(|status| status.node_name.as_ref() == Some(&lost))
            });
            match kept {
                Some(node) if node.spec.released.is_some() => Ok(node),
                other => bail!("{other:?}"),
            }
        })
        .await?;
    let status = node.status.clone().unwrap();
    assert_eq!((status.state, status.reason), (Some(NodeState::Unusable), Some(NodeReason::Lost)));
    story.submit(run("next").on("pool").lasting("1s")).await?;
    let message = format!("until Node {lost} is ready again");
    story
        .expect("the node to say what it waits for", || async {
            let nodes = story.nodes_of("pool").await?;
            let said = nodes.iter().filter_map(|node| node.status.as_ref()?.message.clone());
            ensure!(said.clone().any(|said| said.contains(&message)), "{:?}", said.collect::<Vec<_>>());
            Ok(())
        })
        .await?;
    assert_eq!(hall.taken().await?.len(), 2, "nobody else takes it");

    bring_back_node(&story.client, &lost).await?;
    let next = story.run_comes_to("next", RunPhase::Completed).await?;
    assert_eq!(placed_on(&next), [lost], "it serves again, and the other one is busy");
    story.cancel("training").await?;
    story.cluster_rests_with("pool", 0).await?;
    hall.is_as_it_was().await
}

#[tokio::test]
async fn an_operator_killed_after_it_took_a_machine_finds_it_again() -> Result<()> {
    let story = Story::begin_apart("killed before it was written down").await?;
    let hall = story.hall_of(3).await?;
    story.create_cluster(cluster("pool").in_class(hall.class()).max(3).idle_seconds(1)).await?;
    story.cluster_rests_with("pool", 0).await?;
    // So that what is done cannot be written down.
    let role = may_write_statuses(&story, None).await?;
    story.submit(run("training").on("pool").nodes(2).lasting("2s")).await?;
    let taken = story
        .expect("two machines to be taken", || async {
            let taken = hall.taken().await?;
            ensure!(taken.len() == 2, "{taken:?}");
            Ok(taken)
        })
        .await?;
    story.stage.kill_operator(0).await?;
    for node in story.nodes_of("pool").await? {
        assert_eq!(node.status.unwrap_or_default().node_name, None, "it has been written down");
    }
    may_write_statuses(&story, Some(role)).await?;
    story.stage.refusals_so_far_were_meant().await?;

    story.stage.start_operator(0).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;
    assert_eq!(placed_on(&running).into_iter().collect::<BTreeSet<_>>(), taken.into_keys().collect());
    assert_eq!(hall.taken().await?.len(), 2, "no further machine was taken");
    story.run_comes_to("training", RunPhase::Completed).await?;
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.unwrap().last_node_ordinal, 2);
    hall.is_as_it_was().await
}

/// Takes the right to write statuses of ClusterNodes from the operator, or gives its role back. Returns the role as it was.
async fn may_write_statuses(story: &Story, role: Option<ClusterRole>) -> Result<ClusterRole> {
    let roles = Api::<ClusterRole>::all(story.client.clone());
    let name = format!("{RELEASE}-operator");
    let before = roles.get(&name).await?;
    let mut after = before.clone();
    let is_given_back = role.is_some();
    if let Some(role) = role {
        after.rules = role.rules;
    } else {
        for rule in after.rules.iter_mut().flatten() {
            rule.resources.iter_mut().flatten().for_each(|resource| {
                if resource == "clusternodes/status" {
                    "nothing/status".clone_into(resource);
                }
            });
        }
    }
    roles.replace(&name, &PostParams::default(), &after).await?;
    let question: SubjectAccessReview = serde_json::from_value(json!({"spec": {
        "user": format!("system:serviceaccount:{NAMESPACE}:{RELEASE}"),
        "resourceAttributes": {"group": "trainyard.dev", "resource": "clusternodes", "subresource": "status",
                               "verb": "patch", "namespace": story.namespace},
    }}))?;
    let reviews = Api::<SubjectAccessReview>::all(story.client.clone());
    story
        .expect("the role to be in force", || async {
            let answer = reviews.create(&PostParams::default(), &question).await?;
            let allowed = answer.status.is_some_and(|status| status.allowed);
            ensure!(allowed == is_given_back, "allowed: {allowed}");
            Ok(())
        })
        .await?;
    Ok(before)
}
