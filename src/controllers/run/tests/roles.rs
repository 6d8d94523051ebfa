//! What each role means for its Run.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use trainyard_api::distribution::RoleName;
use trainyard_api::run_status::{RoleStatus, RunPhase};

use super::world::{NAMESPACE, World};

/// A chief, a parameter server and an evaluator on one node.
fn evaluated() -> Value {
    json!({"distribution": {"tensorflow": {"chief": {}, "parameterServer": {}, "evaluator": {}}}})
}

fn told(world: &World, reason: &str) -> Vec<String> {
    let events: Vec<Event> = world.server.list();
    let of_reason = events.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
    of_reason.filter_map(|event| event.note).collect()
}

fn evaluators(world: &World) -> RoleStatus {
    let roles = world.status("r1").roles;
    roles.into_iter().find(|role| role.name == RoleName::Evaluator).expect("the role is there")
}

/// The Run is as if nothing had happened, and the failure was told once, in these words.
async fn goes_on_having_told(world: &World, words: &str) {
    world.play().await;
    world.pass(Duration::from_mins(30)).await;
    let status = world.status("r1");
    assert_eq!(status.phase, Some(RunPhase::Running), "{status:#?}");
    let totals = status.totals.unwrap_or_default();
    assert_eq!((totals.attempts, totals.user_failures, totals.infrastructure_failures), (1, 0, 0));
    let [note] = &told(world, "EvaluatorFailed")[..] else { panic!("{:?}", told(world, "EvaluatorFailed")) };
    assert!(note.contains(words) && note.ends_with("; the training goes on without it"), "{note}");
    assert_eq!((evaluators(world).failed, evaluators(world).active), (1, 0));
    assert_eq!(told(world, "AttemptFailed"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_evaluator_that_fails_is_told_of_once_and_costs_nothing() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &evaluated()).await;
    world.exit("r1-evaluator-0", 3);
    goes_on_having_told(&world, "attempt 1: pod r1-evaluator-0 exited 3").await;

    drop(process);
    let _process = world.start("two");
    goes_on_having_told(&world, "pod r1-evaluator-0 exited 3").await;
    world.exit("r1-chief-0", 0);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.exit_code), (Some(RunPhase::Completed), Some(0)));
    assert_eq!((told(&world, "EvaluatorFailed").len(), evaluators(&world).failed), (1, 1));
    world.assert_nothing_held("r1");
    assert_eq!(world.pod_names(), ["r1-chief-0", "r1-evaluator-0"], "what is finished stays, for its logs");
}

#[tokio::test(start_paused = true)]
async fn an_evaluator_whose_pod_is_deleted_or_vanishes_is_no_lost_member() {
    for force in [false, true] {
        let world = World::with_nodes(1);
        let _process = world.start("one");
        world.running("r1", &evaluated()).await;
        if force {
            world.server.remove::<Pod>(NAMESPACE, "r1-evaluator-0");
        } else {
            world.server.delete::<Pod>(NAMESPACE, "r1-evaluator-0");
        }
        goes_on_having_told(&world, if force { "is gone" } else { "was deleted by somebody" }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_evaluator_that_cannot_start_keeps_no_run_from_running() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &evaluated());
    world.settle().await;
    world.cluster_turn();
    world.settle().await;
    world.kubelet_turn();
    world.edit_pod("r1-evaluator-0", |pod| {
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}});
        pod["status"]["phase"] = json!("Pending");
    });
    goes_on_having_told(&world, "pod r1-evaluator-0 cannot start: ErrImagePull").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_completes_without_its_evaluator_which_is_stopped() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &evaluated()).await;
    assert_eq!(evaluators(&world).active, 1);
    world.exit("r1-chief-0", 0);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    assert_eq!(world.pod_names(), ["r1-chief-0"], "what still ran is deleted");
    assert_eq!(told(&world, "EvaluatorFailed"), Vec::<String>::new(), "it was stopped, and did not fail");
}

#[tokio::test(start_paused = true)]
async fn all_workers_are_chief_and_workers_and_nobody_else() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    let mut spec = evaluated();
    spec["successPolicy"] = json!("AllWorkers");
    spec["distribution"]["tensorflow"]["worker"] = json!({"count": 1});
    world.running("r1", &spec).await;
    world.exit("r1-chief-0", 0);
    world.play().await;
    assert_eq!((world.phase("r1"), world.status("r1").exit_code), (RunPhase::Running, None));
    world.exit("r1-worker-0", 0);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.exit_code), (Some(RunPhase::Completed), Some(0)));
    assert_eq!(status.attempts[0].exit_code, Some(0));
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn with_all_workers_asked_for_a_later_failure_fails_the_run_with_its_exit_code() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    let spec =
        json!({"successPolicy": "AllWorkers", "distribution": {"tensorflow": {"worker": {"count": 2}}}});
    world.running("r1", &spec).await;
    world.exit("r1-worker-0", 0);
    world.play().await;
    world.exit("r1-worker-1", 7);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.exit_code), (Some(RunPhase::Failed), Some(7)));
    let attempt = &status.attempts[0];
    assert_eq!((attempt.exit_code, attempt.culprit.as_deref()), (Some(7), Some("r1-worker-1")));
}

#[tokio::test(start_paused = true)]
async fn a_single_process_that_is_told_its_own_host_has_a_service_that_names_it() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"distribution": {"jax": {}}})).await;
    assert_eq!(world.services().len(), 1);
}
