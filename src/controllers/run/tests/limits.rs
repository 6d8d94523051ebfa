//! Limits of time: over all attempts, and in the queue.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;
use trainyard_api::Cluster;
use trainyard_api::run_status::{AttemptCause, GivenUp, RunPhase, RunQueue, RunReason};

use super::world::{NAMESPACE, World, benchmark_run};

fn running_seconds(world: &World, run: &str) -> i32 {
    world.status(run).totals.unwrap_or_default().running_seconds
}

#[tokio::test(start_paused = true)]
async fn the_time_of_all_attempts_is_added_up_and_what_lies_between_them_is_not() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &json!({"maxTotalTime": "2h", "retries": {"user": 5}})).await;
    world.pass(Duration::from_mins(50)).await;
    world.exit("r1-worker-0", 1);
    world.play().await;
    assert_eq!((world.phase("r1"), world.last_attempt("r1").number), (RunPhase::Running, 2));
    let first = running_seconds(&world, "r1");
    assert!((3000..3005).contains(&first), "50 minutes, and not {first} s");

    // Suspended for a day: neither the day nor the clock's stop is a reason to forget what was used.
    world.pass(Duration::from_mins(50)).await;
    world.edit_run("r1", |run| run.spec.suspend = true);
    world.play().await;
    world.pass(Duration::from_hours(24)).await;
    assert!((6000..6010).contains(&running_seconds(&world, "r1")));
    drop(process);
    let _process = world.start("two");
    world.edit_run("r1", |run| run.spec.suspend = false);
    world.play().await;
    assert_eq!((world.phase("r1"), world.last_attempt("r1").number), (RunPhase::Running, 3));

    world.pass(Duration::from_mins(19)).await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::TotalTime)));
    assert_eq!(world.cause("r1"), Some(AttemptCause::TotalTime));
    let status = world.status("r1");
    assert!(status.message.is_some_and(|text| text.contains("maxTotalTime allows, 2h")));
    let totals = status.totals.unwrap_or_default();
    assert_eq!((totals.attempts, totals.user_failures), (3, 1), "the limit costs no budget");
    assert!((7200..7210).contains(&totals.running_seconds), "{totals:?}");
    let sum: i64 = status
        .attempts
        .iter()
        .filter_map(|one| Some(one.end_time.as_ref()?.0.as_second() - one.launched.as_ref()?.0.as_second()))
        .sum();
    assert_eq!(i64::from(totals.running_seconds), sum, "as anybody can count it");
    world.assert_nothing_held("r1");
}

#[rstest]
#[case::of_all_first("30m", "1h", RunReason::TotalTime)]
#[case::of_one_first("1h", "30m", RunReason::WallClock)]
#[case::both_at_once("30m", "30m", RunReason::TotalTime)]
#[tokio::test(start_paused = true)]
async fn the_first_limit_that_is_reached_ends_the_run(
    #[case] total: &str,
    #[case] wall_clock: &str,
    #[case] expected: RunReason,
) {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"maxTotalTime": total, "maxWallClockTime": wall_clock})).await;
    world.pass(Duration::from_mins(30)).await;
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(expected)));
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_time_is_used_up_when_its_machine_is_lost_is_not_queued_again() {
    let world = World::with_nodes(2);
    let process = world.start("one");
    world.running("r1", &json!({"maxTotalTime": "10m"})).await;
    // While the operator is down the time runs out, and the machine is lost.
    drop(process);
    world.pass(Duration::from_mins(11)).await;
    world.lose_node("n0");
    let _process = world.start("two");
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::TotalTime)));
    assert_eq!(world.cause("r1"), Some(AttemptCause::Infrastructure), "what ended the attempt stays said");
    assert_eq!(world.status("r1").attempts.len(), 1);
}

#[rstest]
#[case::all_processes(&["r1-worker-0", "r1-worker-1", "r1-ps-0"], 1, 600)]
#[case::one_process_while_others_run(&["r1-worker-1"], 1, 4200)]
#[case::all_but_a_server_that_runs_on(&["r1-worker-0", "r1-worker-1"], 0, 4200)]
#[tokio::test(start_paused = true)]
async fn what_had_ended_before_an_operator_was_back_costs_no_time_afterwards(
    #[case] ended: &[&str],
    #[case] code: i32,
    #[case] expected: i32,
) {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &benchmark_run()).await;
    drop(process);
    world.pass(Duration::from_mins(10)).await;
    for pod in ended {
        world.exit(pod, code);
    }
    world.pass(Duration::from_hours(1)).await;
    let _process = world.start("two");
    world.play().await;
    let took = running_seconds(&world, "r1");
    assert!((expected..expected + 5).contains(&took), "{took} s");
    let attempt = world.last_attempt("r1");
    let seconds = |time: Option<trainyard_api::Time>| time.expect("it ended").0.as_second();
    assert_eq!(
        seconds(attempt.end_time) - seconds(attempt.launched),
        i64::from(took),
        "as anybody can count it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_is_not_out_of_time_because_no_operator_was_there_when_it_failed() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &json!({"maxTotalTime": "30m", "retries": {"user": 1}})).await;
    drop(process);
    world.pass(Duration::from_mins(10)).await;
    world.exit("r1-worker-0", 1);
    world.pass(Duration::from_hours(1)).await;
    let _process = world.start("two");
    world.play().await;
    assert_eq!((world.phase("r1"), world.last_attempt("r1").number), (RunPhase::Running, 2));
    world.pass(Duration::from_mins(19)).await;
    assert_eq!(world.phase("r1"), RunPhase::Running, "20 minutes are left");
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::TotalTime)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_the_planner_gives_up_ends_as_failed_with_what_it_waited_for() {
    let world = World::with_nodes(0);
    let _process = world.start("one");
    world.submit("r1", &json!({"queueDeadline": "2h"}));
    world.settle().await;
    let queued = world.status("r1").queued_time.expect("it waits");
    world.pass(Duration::from_hours(3)).await;
    assert_eq!(world.phase("r1"), RunPhase::Queued, "an accepted Run is the planner's to give up");

    world.edit_run("r1", |run| {
        run.status.get_or_insert_default().queue = Some(RunQueue {
            message: Some("needs 1 node: 0 idle, 1 busy".into()),
            given_up: Some(GivenUp::QueueDeadline),
            ..RunQueue::default()
        });
    });
    // Too late to change one's mind.
    world.edit_run("r1", |run| run.spec.suspend = true);
    world.settle().await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.reason), (Some(RunPhase::Failed), Some(RunReason::QueueDeadline)));
    let expected =
        format!("it waited since {}, longer than queueDeadline, 2h: needs 1 node: 0 idle, 1 busy", queued.0);
    assert_eq!(status.message, Some(expected));
    assert!(status.completion_time.is_some() && status.queue.is_none());
    assert_eq!(status.totals, None, "no budget is touched");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_never_accepted_is_given_up_too() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.submit("r1", &json!({"clusterRef": {"name": "nowhere"}, "queueDeadline": "1h"}));
    world.submit("r2", &json!({"clusterRef": {"name": "nowhere"}}));
    world.pass(Duration::from_mins(30)).await;
    drop(process);
    let _process = world.start("two");
    world.pass(Duration::from_mins(29)).await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Queued, Some(RunReason::ClusterNotFound)));
    world.pass(Duration::from_mins(1)).await;
    let status = world.status("r1");
    assert_eq!((status.phase, status.reason), (Some(RunPhase::Failed), Some(RunReason::QueueDeadline)));
    assert!(status.message.is_some_and(|text| text.contains("no Cluster nowhere")), "and why is said");
    assert_eq!(world.phase("r2"), RunPhase::Queued);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_run_whose_cluster_is_gone_is_given_up_without_it() {
    let world = World::with_nodes(0);
    let _process = world.start("one");
    world.submit("r1", &json!({"queueDeadline": "1h"}));
    world.settle().await;
    world.server.delete::<Cluster>(NAMESPACE, "nc6");
    world.pass(Duration::from_mins(59)).await;
    assert_eq!(world.reason("r1"), Some(RunReason::ClusterNotFound));
    world.pass(Duration::from_mins(1)).await;
    assert_eq!((world.phase("r1"), world.reason("r1")), (RunPhase::Failed, Some(RunReason::QueueDeadline)));
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_queue_starts_with_each_wait_and_not_with_a_start_that_was_withdrawn() {
    use trainyard_api::run_status::{DirectiveKind, DirectiveReason};
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.submit("r1", &json!({"queueDeadline": "24h", "retries": {"user": 1}}));
    world.settle().await;
    let queued = |world: &World| world.status("r1").queued_time.expect("it has waited").0;
    let first = queued(&world);

    // Nodes are given and taken back before the launch: the same wait goes on.
    world.pass(Duration::from_mins(5)).await;
    world.commit("r1", 1, &["n0"]);
    world.direct("r1", DirectiveKind::Stop, DirectiveReason::Withdrawn);
    world.settle().await;
    assert_eq!((world.phase("r1"), world.cause("r1")), (RunPhase::Queued, Some(AttemptCause::NotStarted)));
    assert_eq!(queued(&world), first);

    // It runs and fails: another wait.
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Running);
    world.pass(Duration::from_mins(5)).await;
    world.exit("r1-worker-0-a2", 1);
    world.settle().await;
    let second = queued(&world);
    assert!(second.duration_since(first).as_secs() >= 600, "{first} {second}");

    // It is suspended and resumed: another one.
    world.edit_run("r1", |run| run.spec.suspend = true);
    world.settle().await;
    world.pass(Duration::from_mins(5)).await;
    assert_eq!((world.phase("r1"), queued(&world)), (RunPhase::Suspended, second));
    world.edit_run("r1", |run| run.spec.suspend = false);
    world.settle().await;
    assert_eq!(world.phase("r1"), RunPhase::Queued);
    assert!(queued(&world).duration_since(second).as_secs() >= 300);
}
