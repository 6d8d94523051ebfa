//! How long runs may take, and what is kept of them.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::json;
use trainyard_api::run_status::{AttemptCause, QueueReason, RunPhase, RunReason};
use trainyard_e2e::stories::{Story, budgets, cluster, run};

#[tokio::test]
async fn with_all_no_pod_is_left_and_the_exit_code_is_known() -> Result<()> {
    let story = Story::begin("clean pod policy").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("tidy").on("pool").nodes(2).lasting("1s").exiting("3").leaving_no_pods()).await?;
    let failed = story.run_comes_to("tidy", RunPhase::Failed).await?;
    assert_eq!(failed.status.as_ref().unwrap().exit_code, Some(3));
    story
        .expect("no pod of it to be left", || async {
            let pods = story.pods_of("tidy").await?;
            ensure!(pods.is_empty(), "{pods:?}");
            Ok(())
        })
        .await?;

    story.submit(run("usual").on("pool").lasting("1s")).await?;
    story.run_comes_to("usual", RunPhase::Completed).await?;
    assert_eq!(story.pods_of("usual").await?, ["usual-worker-0"], "with its log");
    Ok(())
}

#[tokio::test]
async fn pods_and_service_of_a_finished_run_go_in_their_time_and_the_run_stays() -> Result<()> {
    let story = Story::begin("ttl after finished").await?;
    let services = Api::<Service>::namespaced(story.client.clone(), &story.namespace);
    let left = || async {
        let services: Vec<_> =
            services.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
        anyhow::Ok((story.pods_of("training").await?.len(), services))
    };
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("training").on("pool").nodes(2).lasting("1s").cleared_after("1h")).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;
    let (pods, names) = left().await?;
    assert!(pods > 0, "pods stay for an hour");
    assert_eq!(names, ["training"]);
    let ended = story.runs().get("training").await?;

    // A change of mind about a Run that is over.
    story.edit_run("training", json!({"ttlAfterFinished": "1s"})).await?;
    story
        .expect("pods and Service to be gone", || async {
            let left = left().await?;
            ensure!(left == (0, Vec::new()), "{left:?}");
            Ok(())
        })
        .await?;
    let run = story.runs().get("training").await?;
    assert_eq!((run.uid(), run.status), (ended.uid(), ended.status), "of the Run nothing changes");
    Ok(())
}

#[tokio::test]
async fn finished_runs_that_an_experiment_does_not_keep_go_and_the_others_stay() -> Result<()> {
    let story = Story::begin("retention").await?;
    let runs = || async {
        let mut names: Vec<_> = story
            .runs()
            .list(&ListParams::default())
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect();
        names.sort();
        anyhow::Ok(names)
    };
    let to_be = |expected: &'static [&'static str]| {
        story.expect("some runs to be left", move || async move {
            let left = runs().await?;
            ensure!(left == expected, "{left:?}");
            Ok(())
        })
    };
    story.create_cluster(cluster("pool").max(2)).await?;
    story.keep_runs("mnist", json!({"maxCount": 2})).await?;
    story.submit(run("working").on("pool").of_experiment("mnist")).await?;
    story.submit(run("elsewhere").on("pool").of_experiment("cifar").lasting("1s")).await?;
    story.run_comes_to("elsewhere", RunPhase::Completed).await?;
    for name in ["first", "second", "third"] {
        story.submit(run(name).on("pool").of_experiment("mnist").lasting("1s")).await?;
        story.run_comes_to(name, RunPhase::Completed).await?;
    }
    to_be(&["elsewhere", "second", "third", "working"]).await?;

    story.keep_runs("mnist", json!({"maxAge": "3s"})).await?;
    to_be(&["elsewhere", "working"]).await?;
    for name in ["first", "second", "third"] {
        story.run_is_gone(name).await?;
    }
    story.run_comes_to("working", RunPhase::Running).await?;
    story
        .expect("the Experiment to say so", || async {
            let events = Api::<Event>::namespaced(story.client.clone(), &story.namespace);
            let events = events.list(&ListParams::default()).await?;
            let told = events.iter().any(|event| {
                event.reason.as_deref() == Some("RunsDeleted")
                    && event.regarding.as_ref().is_some_and(|one| one.kind.as_deref() == Some("Experiment"))
            });
            ensure!(told, "no Event");
            let counts = story.experiments().get("mnist").await?.status.unwrap_or_default().runs;
            ensure!((counts.total, counts.running) == (1, 1), "{counts:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_run_that_does_not_start_in_time_is_given_up_and_its_place_goes_to_the_next() -> Result<()> {
    let story = Story::begin("queue deadline").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    story.submit(run("working").on("pool")).await?;
    story.run_comes_to("working", RunPhase::Running).await?;
    story.submit(run("impatient").on("pool").starting_within("6s")).await?;
    story.submit(run("homeless").on("nowhere").starting_within("3s")).await?;
    story.submit(run("patient").on("pool").lasting("1s").starting_within("1h")).await?;
    story
        .run_shows("impatient", "to be next", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.reason == Some(QueueReason::NodesBusy))
        })
        .await?;

    for (name, why) in [("impatient", "busy"), ("homeless", "no Cluster nowhere")] {
        let failed = story.run_comes_to(name, RunPhase::Failed).await?;
        assert_eq!(budgets(&failed), (0, 0), "{name}");
        let status = failed.status.unwrap();
        assert_eq!(status.reason, Some(RunReason::QueueDeadline), "{name}");
        assert!(status.attempts.is_empty() && status.queue.is_none(), "{name}: {status:?}");
        assert!(status.message.as_ref().unwrap().contains(why), "{name}: {:?}", status.message);
    }
    story
        .run_shows("patient", "to be next", |status| {
            status.queue.as_ref().is_some_and(|queue| queue.position == Some(1))
        })
        .await?;
    story.cancel("working").await?;
    story.run_comes_to("patient", RunPhase::Completed).await?;
    assert_eq!(story.clusters().get("pool").await?.status.unwrap().last_node_ordinal, 1);
    Ok(())
}

#[tokio::test]
async fn all_attempts_of_a_run_together_take_no_longer_than_its_user_allows() -> Result<()> {
    let story = Story::begin("total time").await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    let draft = run("stubborn").on("pool").lasting("6s").exiting("1").user_retries(100);
    story.submit(draft.in_all_at_most("16s")).await?;
    // Suspended in the middle of it, for longer than what it has left.
    story
        .run_shows("stubborn", "to run a second time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 2
        })
        .await?;
    story.edit_run("stubborn", json!({"suspend": true})).await?;
    story.run_comes_to("stubborn", RunPhase::Suspended).await?;
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    story.edit_run("stubborn", json!({"suspend": false})).await?;
    story
        .run_shows("stubborn", "to run a third time", |status| {
            status.phase == Some(RunPhase::Running) && status.attempts.len() == 3
        })
        .await?;

    let failed = story.run_comes_to("stubborn", RunPhase::Failed).await?;
    let status = failed.status.unwrap();
    assert_eq!(status.reason, Some(RunReason::TotalTime));
    assert_eq!(status.attempts[1].cause, Some(AttemptCause::Suspended));
    let took = status.totals.unwrap().running_seconds;
    assert!((16..22).contains(&took), "{took} s, and not 16");
    story.submit(run("next").on("pool").lasting("1s")).await?;
    story.run_comes_to("next", RunPhase::Completed).await?;
    Ok(())
}
