//! Whole lives of Runs.

use std::time::Duration;

use serde_json::json;
use trainyard_api::conditions::{ConditionStatus, RunCondition, find};
use trainyard_api::run_status::{AttemptCause, RunPhase, RunReason};
use trainyard_fake_apiserver::{Fault, Matching, Verb};

use super::world::{World, benchmark_run};

#[tokio::test(start_paused = true)]
async fn a_run_is_accepted_started_finished_and_frees_its_node() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Queued, Some(RunReason::Waiting)));
    assert!(world.pods().is_empty(), "no pod before an allocation");
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    assert!(world.services().is_empty(), "a single process needs no host name");
    world.exit("r1-worker-0", 0);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.exit_code), (Some(RunPhase::Completed), Some(0)));
    assert_eq!((status.attempts.len(), status.attempts[0].pods_gone), (1, true));
    assert!(
        find(&status.conditions, RunCondition::Completed)
            .is_some_and(|one| one.status == ConditionStatus::True)
    );
    world.assert_nothing_held("r1");
    assert_eq!(world.pod_names(), ["r1-worker-0"], "a finished pod stays");
}

#[tokio::test(start_paused = true)]
async fn writes_of_one_run_are_counted() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &benchmark_run()).await;
    let processes = 3;
    let writes = world.writes("one");
    let count = |what: &str| writes.iter().filter(|one| *one == what).count();
    // Two of the creates are rehearsals: one for each role.
    assert_eq!(count("Create pods"), 2 + processes, "{writes:?}");
    assert_eq!(count("Create services"), 1);
    assert_eq!(count("Patch runs"), 1, "the finalizer");
    assert_eq!(count("Patch runs/status"), 4, "accepted, answered, launched, running");
    assert_eq!(count("Patch pods"), processes, "gates");
    assert_eq!(writes.len(), 2 + processes + 1 + 1 + 4 + processes);
    world.server.forget_requests();
    world.exit("r1-worker-0", 0);
    world.exit("r1-worker-1", 0);
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    let writes = world.writes("one");
    let count = |what: &str| writes.iter().filter(|one| *one == what).count();
    assert_eq!(count("Patch runs/status"), 2, "ended, completed: {writes:?}");
    assert_eq!(count("Patch pods"), processes, "finalizers");
    assert_eq!(count("Delete pods"), 1, "the parameter server is stopped");
    assert_eq!(writes.len(), 2 + processes + 1);
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_asked_and_nothing_written() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("running", &benchmark_run()).await;
    world.submit("waiting", &json!({"nodeCount": 4}));
    world.play().await;
    world.pass(Duration::from_secs(30)).await;
    world.server.forget_requests();
    world.pass(Duration::from_mins(1)).await;
    let asked: Vec<_> = world.server.requests().into_iter().filter(|one| one.verb != Verb::Watch).collect();
    assert_eq!(asked, []);
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_tried_again_within_its_budget() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"retries": {"user": 1}})).await;
    world.exit("r1-worker-0", 3);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Running), 2));
    assert_eq!(
        (status.attempts[0].cause, status.attempts[0].exit_code),
        (Some(AttemptCause::UserCode), Some(3))
    );
    world.exit("r1-worker-0-a2", 4);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.reason), (Some(RunPhase::Failed), Some(RunReason::UserCode)));
    assert_eq!(status.exit_code, Some(4));
    assert_eq!(status.totals.expect("totals").user_failures, 2);
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_costs_infrastructure_and_the_run_goes_on_elsewhere() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.lose_node("n0");
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Running), 2));
    assert_eq!(
        (status.attempts[0].cause, status.attempts[0].culprit.as_deref()),
        (Some(AttemptCause::Infrastructure), Some("n0"))
    );
    let totals = status.totals.expect("totals");
    assert_eq!((totals.infrastructure_failures, totals.user_failures), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_exits_0_while_the_operator_is_down_is_a_success() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &json!({})).await;
    drop(process);
    world.exit("r1-worker-0", 0);
    world.pass(Duration::from_secs(2)).await;
    world.server.delete::<k8s_openapi::api::core::v1::Pod>("ml", "r1-worker-0");
    world.settle().await;
    let _process = world.start("two");
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
    world.assert_nothing_held("r1");
}

#[tokio::test(start_paused = true)]
async fn one_deleted_worker_makes_the_whole_gang_start_again() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &json!({"nodeCount": 2})).await;
    world.server.delete::<k8s_openapi::api::core::v1::Pod>("ml", "r1-worker-1");
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Running), 2));
    assert_eq!(status.attempts[0].reason.as_deref(), Some("PodDeleted"));
    let service = &world.services()[0];
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    assert_eq!(selector["trainyard.dev/attempt"], "2", "the Service selects the current attempt");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_run_keeps_its_place_and_costs_nothing() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({})).await;
    world.edit_run("r1", |run| run.spec.suspend = true);
    world.play().await;
    let status = world.status("r1");
    assert_eq!(
        (status.phase, status.attempts[0].cause),
        (Some(RunPhase::Suspended), Some(AttemptCause::Suspended))
    );
    world.assert_nothing_held("r1");
    world.edit_run("r1", |run| run.spec.suspend = false);
    world.play().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.attempts.len()), (Some(RunPhase::Running), 2));
    let totals = status.totals.expect("totals");
    assert_eq!((totals.user_failures, totals.infrastructure_failures), (0, 0));
    assert!(
        find(&status.conditions, RunCondition::Suspended)
            .is_some_and(|one| one.status == ConditionStatus::False)
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_cluster_is_said_at_once_and_heals_by_itself() {
    let world = World::with_nodes(1);
    world.server.remove::<trainyard_api::Cluster>("ml", "nc6");
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    assert_eq!(world.reason("r1"), Some(RunReason::ClusterNotFound));
    assert!(
        world
            .status("r1")
            .message
            .is_some_and(|text| text.contains("no Cluster nc6 in namespace ml; create it"))
    );
    world.put_cluster();
    world.settle().await;
    assert_eq!(world.reason("r1"), Some(RunReason::Waiting));
}

#[tokio::test(start_paused = true)]
async fn a_refused_run_says_why_and_is_asked_for_again_every_ten_minutes() {
    let world = World::with_nodes(1);
    let pods = Matching::any().verb(Verb::Create).resource("pods");
    world.server.fail(pods.clone(), Fault::Forbidden);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.play().await;
    assert_eq!(world.reason("r1"), Some(RunReason::NotAccepted));
    assert!(world.status("r1").message.is_some_and(|text| text.contains("pod r1-worker-0 would be refused")));
    assert_eq!(world.count(&pods), 1);
    world.pass(Duration::from_mins(9)).await;
    assert_eq!(world.count(&pods), 1);
    world.server.heal();
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_does_not_divide_the_accelerators_is_refused_with_both_numbers() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({"distribution": {"tensorflow": {"worker": {"count": 3}}}}));
    world.play().await;
    assert_eq!(world.reason("r1"), Some(RunReason::DoesNotFit));
    assert!(
        world
            .status("r1")
            .message
            .is_some_and(|text| text.contains("3 processes") && text.contains("its 2 nvidia.com/gpu"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_spec_changed_behind_the_schemas_back_is_not_started() {
    let world = World::with_nodes(0);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.play().await;
    world.edit_run("r1", |run| run.spec.container.image = "registry.example/other:2".into());
    world.play().await;
    assert_eq!(world.reason("r1"), Some(RunReason::SpecChanged));
}

#[tokio::test(start_paused = true)]
async fn runs_that_differ_in_name_only_are_asked_for_once_in_ten_seconds() {
    let world = World::with_nodes(0);
    let _process = world.start("one");
    let creates = Matching::any().verb(Verb::Create).resource("pods");
    world.submit("r0", &json!({}));
    world.settle().await;
    for index in 1..20 {
        world.submit(&format!("r{index}"), &json!({}));
    }
    world.submit("other", &json!({"args": ["--other"]}));
    world.settle().await;
    assert_eq!(
        world.reason("r19"),
        Some(RunReason::Waiting),
        "no node, so its size tells what it would have"
    );
    assert_eq!(world.count(&creates), 2, "one for all that are alike, one for the other");
    world.pass(Duration::from_secs(10)).await;
    world.submit("later", &json!({}));
    world.settle().await;
    assert_eq!(world.count(&creates), 3);
}
