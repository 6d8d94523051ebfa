//! What the processes of a Run are told of each other, and whose end is the Run's.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;
use trainyard_api::distribution::RoleName;
use trainyard_api::names::labels;
use trainyard_api::run_status::{RoleStatus, RunPhase, RunStatus};
use trainyard_e2e::stories::{Story, budgets, cluster, placed_on, run};

/// One accelerator each.
const ONE_GPU: &str = "Standard_NC24ads_A100_v4";

/// What a pod's main container is told.
async fn told(story: &Story, pod: &str) -> Result<BTreeMap<String, String>> {
    let pod = story.pods().get(pod).await?;
    let main = pod.spec.context("a pod has a spec")?.containers.remove(0);
    Ok(main.env.unwrap_or_default().into_iter().filter_map(|one| Some((one.name, one.value?))).collect())
}

fn role(status: &RunStatus, name: RoleName) -> RoleStatus {
    status.roles.iter().find(|role| role.name == name).cloned().expect("the role is there")
}

#[tokio::test]
async fn a_jax_run_on_two_machines_knows_its_coordinator_by_a_name_in_dns() -> Result<()> {
    let story = Story::begin("jax").await?;
    story.create_cluster(cluster("pool").max(2)).await?;
    story.submit(run("gemma").on("pool").nodes(2).distributed(json!({"jax": {}})).lasting("8s")).await?;
    let running = story.run_comes_to("gemma", RunPhase::Running).await?;
    assert_eq!(placed_on(&running).len(), 2);

    for (pod, id) in [("gemma-worker-0", "0"), ("gemma-worker-1", "1")] {
        let told = told(&story, pod).await?;
        assert_eq!(told["COORDINATOR_ADDRESS"], "gemma-worker-0.gemma.jax.svc");
        assert_eq!(told["COORDINATOR_PORT"], "6666");
        assert_eq!((told["NUM_PROCESSES"].as_str(), told["PROCESS_ID"].as_str()), ("2", id));
    }
    let slices: Api<EndpointSlice> = Api::namespaced(story.client.clone(), &story.namespace);
    let of_run = ListParams::default().labels("kubernetes.io/service-name=gemma");
    story
        .expect("the hosts of both processes", || async {
            let found = slices.list(&of_run).await?;
            let mut hosts: Vec<_> = found
                .iter()
                .flat_map(|slice| &slice.endpoints)
                .filter_map(|one| one.hostname.clone())
                .collect();
            hosts.sort();
            ensure!(hosts == ["gemma-worker-0", "gemma-worker-1"], "{hosts:?}");
            Ok(())
        })
        .await?;
    story.run_comes_to("gemma", RunPhase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn an_evaluator_that_fails_hurts_nobody_and_one_that_goes_on_is_not_waited_for() -> Result<()> {
    let story = Story::begin("watched training").await?;
    story.create_cluster(cluster("pool").of_size(ONE_GPU).max(2)).await?;
    let tensorflow = json!({"tensorflow": {"chief": {}, "parameterServer": {}, "evaluator": {}}});
    let train = |name: &str| run(name).on("pool").nodes(2).distributed(tensorflow.clone());
    let (chief, worker, evaluator) = (RoleName::Chief, RoleName::Worker, RoleName::Evaluator);

    let failing = train("failing").role_lasting(evaluator, "1s", 3);
    story.submit(failing.role_lasting(chief, "8s", 0).role_lasting(worker, "8s", 0)).await?;
    let seen = story
        .run_shows("failing", "to go on without its evaluator", |status| {
            let failed = status.roles.iter().any(|role| role.name == evaluator && role.failed == 1);
            failed && status.phase == Some(RunPhase::Running)
        })
        .await?;
    let told = told(&story, "failing-evaluator-0").await?;
    let (map, _) = told["TF_CONFIG"].split_once(",\"task\":").context("a task")?;
    ensure!(
        !map.contains("evaluator") && map.contains("failing-ps-0.failing.watched-training.svc:2222"),
        "{map}"
    );
    assert!(told["TF_CONFIG"].contains(r#""task":{"type":"evaluator","index":0}"#));
    let pod: Pod = story.pods().get("failing-evaluator-0").await?;
    let spec = pod.spec.context("a spec")?;
    assert_eq!(spec.node_name.as_ref(), placed_on(&seen).last(), "it sits on the last node");
    let limits = spec.containers[0].resources.as_ref().and_then(|one| one.limits.clone());
    assert!(!limits.context("limits")?.contains_key("nvidia.com/gpu"), "and takes no accelerator there");

    let done = story.run_comes_to("failing", RunPhase::Completed).await?;
    assert_eq!(budgets(&done), (0, 0), "user 0, infrastructure 0");
    let status = done.status.context("a status")?;
    assert_eq!((status.attempts.len(), status.exit_code), (1, Some(0)));
    assert_eq!(role(&status, evaluator).failed, 1);
    let events: Api<Event> = Api::namespaced(story.client.clone(), &story.namespace);
    story
        .expect("one Event about it", || async {
            let events = events.list(&ListParams::default()).await?;
            let about = events.iter().filter(|event| event.reason.as_deref() == Some("EvaluatorFailed"));
            let notes: Vec<_> = about.filter_map(|event| event.note.clone()).collect();
            ensure!(notes.len() == 1 && notes[0].contains("failing-evaluator-0 exited 3"), "{notes:?}");
            Ok(())
        })
        .await?;

    story.submit(train("endless").role_lasting(chief, "1s", 0)).await?;
    let done = story.run_comes_to("endless", RunPhase::Completed).await?;
    assert_eq!(role(&done.status.context("a status")?, evaluator).failed, 0);
    assert_eq!(story.pods_of("endless").await?, ["endless-chief-0"], "what still ran was stopped");
    Ok(())
}

#[tokio::test]
async fn with_all_workers_asked_for_a_run_is_done_when_the_last_one_is() -> Result<()> {
    let story = Story::begin("all workers").await?;
    story.create_cluster(cluster("pool").max(4)).await?;
    let (chief, worker) = (RoleName::Chief, RoleName::Worker);
    let train = |name: &str| {
        let both = run(name).on("pool").nodes(2).distributed(json!({"tensorflow": {"chief": {}}}));
        both.of_all_workers().role_lasting(chief, "1s", 0)
    };
    story.submit(train("patient").role_lasting(worker, "6s", 0)).await?;
    story.submit(train("unlucky").role_lasting(worker, "3s", 7)).await?;
    let of_patient = ListParams::default().labels(&format!("{}=patient", labels::RUN));
    story
        .expect("the chief to be done", || async {
            let pods = story.pods().list(&of_patient).await?;
            let phases: BTreeMap<_, _> = pods
                .iter()
                .filter_map(|pod| Some((pod.metadata.name.clone()?, pod.status.clone()?.phase?)))
                .collect();
            ensure!(phases.get("patient-chief-0").is_some_and(|phase| phase == "Succeeded"), "{phases:?}");
            Ok(())
        })
        .await?;
    let status = story.runs().get("patient").await?.status.context("a status")?;
    assert_eq!(
        (status.phase, status.exit_code),
        (Some(RunPhase::Running), None),
        "the chief alone is not all"
    );

    let done = story.run_comes_to("patient", RunPhase::Completed).await?.status.context("a status")?;
    assert_eq!((done.exit_code, done.attempts[0].exit_code), (Some(0), Some(0)));
    assert_eq!((role(&done, chief).succeeded, role(&done, worker).succeeded), (1, 1));

    let failed = story.run_comes_to("unlucky", RunPhase::Failed).await?.status.context("a status")?;
    assert_eq!(failed.exit_code, Some(7), "a success of the chief is no excuse");
    assert_eq!(failed.attempts[0].culprit.as_deref(), Some("unlucky-worker-0"));
    Ok(())
}
