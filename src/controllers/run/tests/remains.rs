//! What is left of a Run that is over, and for how long.

use std::time::Duration;

use kube::ResourceExt as _;
use rstest::rstest;
use serde_json::json;
use trainyard_api::duration;
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_fake_apiserver::{Matching, Verb, When};

use super::world::World;

/// A worker on each of two nodes, and a parameter server.
fn gang(more: serde_json::Value) -> serde_json::Value {
    let mut gang = json!({"nodeCount": 2, "distribution": {"tensorflow": {"parameterServer": {}}}});
    if let (Some(gang), serde_json::Value::Object(more)) = (gang.as_object_mut(), more) {
        gang.extend(more);
    }
    gang
}

fn set_ttl(world: &World, ttl: Option<i64>) {
    world.edit_run("r1", |run| run.spec.ttl_after_finished = ttl.map(duration::Duration::from_mins));
}

/// A way to end.
#[derive(Clone, Copy, Debug)]
enum End {
    Success,
    Failure,
    Cancel,
    WallClock,
    LostMachine,
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn the_policy_decides_what_is_left_however_a_run_ends(
    #[values(End::Success, End::Failure, End::Cancel, End::WallClock, End::LostMachine)] end: End,
    #[values("Running", "All")] policy: &str,
) {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    let spec = json!({"cleanPodPolicy": policy, "maxWallClockTime": "1h", "retries": {"infrastructure": 0}});
    world.running("r1", &gang(spec)).await;
    // One worker is done long before the others.
    world.exit("r1-worker-1", 0);
    world.play().await;
    assert_eq!(world.pods().len(), 3, "while the attempt lives, nothing of it goes");
    match end {
        End::Success => world.exit("r1-worker-0", 0),
        End::Failure => world.exit("r1-worker-0", 7),
        End::Cancel => world.edit_run("r1", |run| run.spec.cancel = true),
        End::WallClock => world.pass(Duration::from_hours(1)).await,
        End::LostMachine => world.lose_node("n0"),
    }
    world.play().await;
    let status = world.status("r1");
    assert!(status.phase.is_some_and(RunPhase::is_terminal), "{status:#?}");
    let mut left = world.pod_names();
    left.retain(|name| !world.is_stuck(name));
    left.sort();
    let finished: &[&str] = match (policy, end) {
        ("All", _) => &[],
        (_, End::Success | End::Failure) => &["r1-worker-0", "r1-worker-1"],
        _ => &["r1-worker-1"],
    };
    assert_eq!(left, finished, "{end:?}");
    let code = match end {
        End::Success => Some(0),
        End::Failure => Some(7),
        End::Cancel | End::WallClock | End::LostMachine => None,
    };
    assert_eq!(status.exit_code, code);
}

#[tokio::test(start_paused = true)]
async fn a_finished_run_with_a_pod_on_a_lost_machine_can_be_deleted() {
    let world = World::with_nodes(1);
    let process = world.start("one");
    world.running("r1", &json!({"retries": {"infrastructure": 0}})).await;
    world.lose_node("n0");
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Failed);
    assert!(world.is_stuck("r1-worker-0"), "no kubelet ends it");
    world.server.delete::<trainyard_api::Run>("ml", "r1");
    world.play().await;
    assert!(!world.has_run("r1"));
    drop(process);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_stored_before_any_pod_of_it_goes_and_a_crash_in_between_leaves_none() {
    let world = World::with_nodes(2);
    let process = world.start("one");
    world.running("r1", &gang(json!({"cleanPodPolicy": "All"}))).await;
    let end = world.server.pause(Matching::writes().resource("runs/status"), When::Before);
    let stored = world.server.pause(Matching::writes().resource("runs/status"), When::After);
    world.exit("r1-worker-0", 0);
    world.exit("r1-worker-1", 0);
    world.settle().await;
    assert_eq!(world.pods().len(), 3, "the result is not stored yet");
    assert!(world.pods().iter().all(|pod| pod.metadata.deletion_timestamp.is_none()));
    // Killed at the very moment at which the result is stored.
    end.release();
    world.settle().await;
    drop(process);
    stored.release();
    world.settle().await;
    assert_eq!((world.cause("r1"), world.pods().len()), (Some(AttemptCause::Succeeded), 3));
    let _process = world.start("two");
    world.play().await;
    assert_eq!((world.phase("r1"), world.status("r1").exit_code), (RunPhase::Completed, Some(0)));
    assert_eq!(world.pod_names(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_failed_attempt_go_before_the_next_one_starts() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.running("r1", &json!({"cleanPodPolicy": "All", "retries": {"user": 1}})).await;
    world.exit("r1-worker-0", 3);
    world.play().await;
    assert_eq!(world.status("r1").attempts[0].exit_code, Some(3));
    assert_eq!(world.pod_names(), ["r1-worker-0-a2"]);
}

#[tokio::test(start_paused = true)]
async fn pods_and_service_go_when_their_time_is_over_and_the_run_stays() {
    let world = World::with_nodes(2);
    let process = world.start("one");
    world.running("r1", &gang(json!({"ttlAfterFinished": "1h"}))).await;
    world.exit("r1-worker-1", 0);
    world.exit("r1-worker-0", 0);
    world.play().await;
    assert_eq!((world.phase("r1"), world.pods().len(), world.services().len()), (RunPhase::Completed, 2, 1));
    let ended = world.status("r1");

    // The timer is the end that is recorded, not the start of any process.
    world.pass(Duration::from_mins(40)).await;
    drop(process);
    let _process = world.start("two");
    world.pass(Duration::from_mins(19)).await;
    assert_eq!((world.pods().len(), world.services().len()), (2, 1));
    world.server.forget_requests();
    world.pass(Duration::from_mins(1)).await;
    world.play().await;
    assert_eq!((world.pods().len(), world.services().len()), (0, 0));
    assert_eq!(world.status("r1"), ended, "of the Run nothing changes");
    assert_eq!(world.writes("two"), ["Delete pods", "Delete pods", "Delete services"]);

    world.server.forget_requests();
    world.pass(Duration::from_hours(10)).await;
    let asked = world.count(&Matching::any().verb(Verb::Get)) + world.writes("two").len();
    assert_eq!(asked, 0, "and nothing is asked or written any more");
}

#[tokio::test(start_paused = true)]
async fn the_time_may_be_set_changed_and_unset_when_the_run_is_over() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &gang(json!({}))).await;
    world.exit("r1-worker-0", 0);
    world.play().await;
    world.pass(Duration::from_hours(5)).await;
    assert_eq!((world.pods().len(), world.services().len()), (1, 1), "without one, they stay");

    set_ttl(&world, Some(6 * 60));
    world.pass(Duration::from_mins(30)).await;
    set_ttl(&world, Some(8 * 60));
    world.pass(Duration::from_mins(60)).await;
    assert_eq!(world.pods().len(), 1, "the later time counts");
    set_ttl(&world, None);
    world.pass(Duration::from_hours(48)).await;
    assert_eq!(world.pods().len(), 1, "and none at all when it is unset");
    set_ttl(&world, Some(60));
    world.settle().await;
    world.play().await;
    assert_eq!((world.pods().len(), world.services().len()), (0, 0), "one that is over counts at once");
    assert_eq!(world.phase("r1"), RunPhase::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_service_of_somebody_else_stays() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.running("r1", &gang(json!({"ttlAfterFinished": "0s"}))).await;
    world.server.edit::<k8s_openapi::api::core::v1::Service>("ml", "r1", |service| {
        service.metadata.owner_references = None;
    });
    world.exit("r1-worker-0", 0);
    world.play().await;
    world.pass(Duration::from_hours(1)).await;
    assert_eq!((world.pods().len(), world.services().len()), (0, 1));
    assert_eq!(world.services()[0].name_any(), "r1");
}
