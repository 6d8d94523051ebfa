//! How Runs end: cancelled, deleted, directed, out of time, in every phase.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;
use trainyard_api::run_status::{AttemptCause, DirectiveKind, DirectiveReason, RunPhase, RunReason};
use trainyard_fake_apiserver::{Fault, Matching, Verb, When};

use super::world::World;

/// How far a Run is when something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unseen,
    Queued,
    Allocated,
    Launched,
    Running,
    Suspended,
    Finalizing,
    Completed,
}

/// A world with Run `r1` at this stage. Pods that are launched but do not run are held back by no kubelet turning.
async fn at(stage: Stage) -> (World, super::world::Process) {
    let world = World::with_nodes(1);
    let process = world.start("one");
    if stage == Stage::Unseen {
        world.submit("r1", &json!({}));
        return (world, process);
    }
    world.submit("r1", &json!({}));
    world.settle().await;
    match stage {
        Stage::Unseen | Stage::Queued => {}
        Stage::Allocated => world.allocate("r1", &["n0"]),
        Stage::Launched => {
            world.cluster_turn();
            world.settle().await;
            assert!(world.last_attempt("r1").launched.is_some());
        }
        Stage::Running => world.play().await,
        Stage::Suspended => {
            world.edit_run("r1", |run| run.spec.suspend = true);
            world.play().await;
            assert_eq!(world.phase("r1"), RunPhase::Suspended);
        }
        Stage::Finalizing => {
            world.play().await;
            world.edit_run("r1", |run| run.spec.suspend = true);
            world.settle().await;
            assert_eq!(world.phase("r1"), RunPhase::Finalizing);
            world.edit_run("r1", |run| run.spec.suspend = false);
        }
        Stage::Completed => {
            world.play().await;
            world.exit("r1-worker-0", 0);
            world.play().await;
            assert_eq!(world.phase("r1"), RunPhase::Completed);
        }
    }
    (world, process)
}

#[rstest]
#[case(Stage::Unseen, RunPhase::Canceled)]
#[case(Stage::Queued, RunPhase::Canceled)]
#[case(Stage::Allocated, RunPhase::Canceled)]
#[case(Stage::Launched, RunPhase::Canceled)]
#[case(Stage::Running, RunPhase::Canceled)]
#[case(Stage::Suspended, RunPhase::Canceled)]
#[case(Stage::Finalizing, RunPhase::Canceled)]
#[case(Stage::Completed, RunPhase::Completed)]
#[tokio::test(start_paused = true)]
async fn cancel_ends_a_run_in_every_stage_and_stays(#[case] stage: Stage, #[case] expected: RunPhase) {
    let (world, _process) = at(stage).await;
    world.edit_run("r1", |run| run.spec.cancel = true);
    world.settle().await;
    world.edit_run("r1", |run| run.spec.cancel = false);
    world.play().await;
    assert_eq!(world.phase("r1"), expected, "{:#?}", world.status("r1"));
    let totals = world.status("r1").totals.unwrap_or_default();
    assert_eq!((totals.user_failures, totals.infrastructure_failures), (0, 0));
    world.assert_nothing_held("r1");
}

#[rstest]
#[case(Stage::Unseen)]
#[case(Stage::Queued)]
#[case(Stage::Allocated)]
#[case(Stage::Launched)]
#[case(Stage::Running)]
#[case(Stage::Suspended)]
#[case(Stage::Finalizing)]
#[case(Stage::Completed)]
#[tokio::test(start_paused = true)]
async fn a_deleted_run_goes_in_every_stage_and_leaves_nothing(#[case] stage: Stage) {
    let (world, _process) = at(stage).await;
    world.server.delete::<trainyard_api::Run>("ml", "r1");
    world.play().await;
    assert!(!world.has_run("r1"), "{:#?}", world.status("r1"));
    assert_eq!(world.pod_names(), Vec::<String>::new());
    world.assert_nothing_held("r1");
}

#[rstest]
#[case(Stage::Launched)]
#[case(Stage::Running)]
#[tokio::test(start_paused = true)]
async fn a_run_removed_by_force_leaves_no_pod(#[case] stage: Stage) {
    let (world, _process) = at(stage).await;
    world.server.remove::<trainyard_api::Run>("ml", "r1");
    world.play().await;
    assert_eq!(world.pod_names(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_run_of_the_same_name_does_not_inherit_pods() {
    let (world, process) = at(Stage::Running).await;
    drop(process);
    world.server.remove::<trainyard_api::Run>("ml", "r1");
    world.submit("r1", &json!({}));
    let uid = world.run("r1").metadata.uid;
    let _process = world.start("two");
    // A pod of the former Run has the name at first.
    world.play().await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    let owners: Vec<_> = world
        .pods()
        .iter()
        .filter_map(|pod| Some(pod.metadata.owner_references.clone()?[0].uid.clone()))
        .collect();
    assert_eq!(owners, [uid.expect("a stored object has a UID")]);
}

#[rstest]
#[case(DirectiveKind::Stop, DirectiveReason::Withdrawn, AttemptCause::NotStarted, RunPhase::Queued)]
#[case(DirectiveKind::Requeue, DirectiveReason::NodeLost, AttemptCause::NotStarted, RunPhase::Queued)]
#[case(DirectiveKind::Fail, DirectiveReason::ClusterDeleted, AttemptCause::ClusterDeleted, RunPhase::Failed)]
#[case(DirectiveKind::Stop, DirectiveReason::MaxNodesLowered, AttemptCause::NotStarted, RunPhase::Queued)]
#[case(DirectiveKind::Fail, DirectiveReason::MaxNodesLowered, AttemptCause::Deallocated, RunPhase::Failed)]
#[tokio::test(start_paused = true)]
async fn a_directive_before_the_launch_costs_nothing(
    #[case] kind: DirectiveKind,
    #[case] reason: DirectiveReason,
    #[case] cause: AttemptCause,
    #[case] phase: RunPhase,
) {
    let (world, process) = at(Stage::Queued).await;
    drop(process);
    world.allocate("r1", &["n0"]);
    world.direct("r1", kind, reason);
    let _process = world.start("two");
    world.settle().await;
    let attempt = world.last_attempt("r1");
    assert_eq!((attempt.cause, attempt.pods_gone, world.phase("r1")), (Some(cause), true, phase));
    let totals = world.status("r1").totals.unwrap_or_default();
    assert_eq!((totals.attempts, totals.user_failures, totals.infrastructure_failures), (1, 0, 0));
    assert!(world.pods().is_empty());
}

#[rstest]
#[case(DirectiveKind::Requeue, DirectiveReason::NodeLost, AttemptCause::Infrastructure, RunPhase::Queued)]
#[case(DirectiveKind::Stop, DirectiveReason::NodePreempted, AttemptCause::Infrastructure, RunPhase::Queued)]
#[case(DirectiveKind::Requeue, DirectiveReason::NodeRemoved, AttemptCause::Requeue, RunPhase::Queued)]
#[case(DirectiveKind::Stop, DirectiveReason::MaxNodesLowered, AttemptCause::Requeue, RunPhase::Queued)]
#[case(DirectiveKind::Fail, DirectiveReason::MaxNodesLowered, AttemptCause::Deallocated, RunPhase::Failed)]
#[case(DirectiveKind::Fail, DirectiveReason::ClusterDeleted, AttemptCause::ClusterDeleted, RunPhase::Failed)]
#[tokio::test(start_paused = true)]
async fn a_directive_ends_a_running_attempt(
    #[case] kind: DirectiveKind,
    #[case] reason: DirectiveReason,
    #[case] cause: AttemptCause,
    #[case] phase: RunPhase,
) {
    let (world, _process) = at(Stage::Running).await;
    world.direct("r1", kind, reason);
    for _ in 0..3 {
        world.settle().await;
        world.kubelet_turn();
    }
    world.settle().await;
    assert_eq!((world.cause("r1"), world.phase("r1")), (Some(cause), phase), "{:#?}", world.status("r1"));
    let expected = i32::from(cause == AttemptCause::Infrastructure);
    assert_eq!(world.status("r1").totals.map(|totals| totals.infrastructure_failures), Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_success_that_is_seen_with_a_cancel_is_a_success() {
    let (world, process) = at(Stage::Running).await;
    drop(process);
    world.exit("r1-worker-0", 0);
    world.edit_run("r1", |run| run.spec.cancel = true);
    let _process = world.start("two");
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_counts_from_the_launch_and_fails_the_run() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"maxWallClockTime": "1h", "retries": {"user": 5}})).await;
    world.pass(Duration::from_mins(59)).await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::WallClock)));
    assert!(world.status("r1").message.is_some_and(|text| text.contains("maxWallClockTime, 1h")));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_only_answered_before_the_operator_was_down_starts_afterwards() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.submit("r1", &json!({"retries": {"infrastructure": 0}}));
    world.settle().await;
    let pods = Matching::any().verb(Verb::Create).resource("pods");
    let gate = world.server.pause(pods.clone(), When::Before);
    world.allocate("r1", &["n0"]);
    world.settle().await;
    gate.reached().await;
    world.server.fail(pods, Fault::InternalError);
    drop(process);
    gate.release();
    world.settle().await;
    world.pass(Duration::from_mins(30)).await;
    assert_eq!((world.status("r1").attempts.len(), world.pods().len()), (1, 0));
    world.server.heal();
    let _process = world.start("two");
    world.play().await;
    assert_eq!((world.phase("r1"), world.status("r1").attempts.len()), (RunPhase::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_lacks_nothing_starts_however_long_the_operator_was_down() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.submit("r1", &json!({"retries": {"infrastructure": 0}}));
    world.settle().await;
    let looks = Matching::any().verb(Verb::Get).resource("clusternodes");
    let gate = world.server.pause(looks, When::Before);
    world.allocate("r1", &["n0"]);
    world.settle().await;
    gate.reached().await;
    drop(process);
    gate.release();
    world.pass(Duration::from_mins(30)).await;
    assert_eq!((world.last_attempt("r1").launched, world.pods().len()), (None, 1));
    let _process = world.start("two");
    world.play().await;
    assert_eq!((world.phase("r1"), world.status("r1").attempts.len()), (RunPhase::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_whose_pods_are_gone_at_once_misses_no_cluster() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"retries": {"user": 1}})).await;
    world.server.forget_requests();
    world.exit("r1-worker-0", 1);
    world.settle().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Queued, Some(RunReason::RetryUser)));
    assert_eq!(world.writes("one").iter().filter(|one| *one == "Patch runs/status").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_finished_run_has_no_place_in_the_queue() {
    let world = World::with_nodes(0);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    world.edit_run("r1", |run| {
        let queue = trainyard_api::run_status::RunQueue { position: Some(1), ..Default::default() };
        run.status.get_or_insert_default().queue = Some(queue);
    });
    world.edit_run("r1", |run| run.spec.cancel = true);
    world.settle().await;
    assert_eq!((world.phase("r1"), world.status("r1").queue), (RunPhase::Canceled, None));
}

#[tokio::test(start_paused = true)]
async fn only_the_last_ten_attempts_are_kept_and_all_are_counted() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"retries": {"user": 12}})).await;
    for attempt in 1..=13 {
        let pod = if attempt == 1 { "r1-worker-0".to_owned() } else { format!("r1-worker-0-a{attempt}") };
        world.exit(&pod, 1);
        world.play().await;
    }
    let status = world.status("r1");
    assert_eq!(status.phase, Some(RunPhase::Failed));
    assert_eq!(
        status.attempts.iter().map(|one| one.number).collect::<Vec<_>>(),
        (4..=13).collect::<Vec<_>>()
    );
    assert_eq!(status.totals.map(|totals| (totals.attempts, totals.user_failures)), Some((13, 13)));
}

#[tokio::test(start_paused = true)]
async fn a_success_is_recorded_before_a_later_failure_and_stays() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &json!({"nodeCount": 2})).await;
    let end = Matching::writes().resource("runs/status");
    let gate = world.server.pause(end, When::Before);
    world.exit("r1-worker-0", 0);
    world.settle().await;
    world.exit("r1-worker-1", 9);
    gate.release();
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Completed);
}
