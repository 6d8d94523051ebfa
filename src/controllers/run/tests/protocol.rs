//! The dangerous part: two processes, one that is paused between any two steps, stale views.

use rstest::rstest;
use serde_json::json;
use trainyard_api::run_status::{AttemptCause, DirectiveKind, DirectiveReason, RunPhase};
use trainyard_fake_apiserver::{Matching, Verb, When};

use super::world::World;

fn gates(world: &World) -> Vec<bool> {
    world
        .pods()
        .iter()
        .map(|pod| {
            pod.spec
                .as_ref()
                .and_then(|spec| spec.scheduling_gates.as_ref())
                .is_some_and(|gates| !gates.is_empty())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn two_controllers_at_once_make_one_attempt() {
    let world = World::with_nodes(2);
    let _one = world.start("one");
    let _two = world.start("two");
    world.submit("r1", &json!({"nodeCount": 2}));
    world.submit("r2", &json!({}));
    // Both meet conflicts and back off for some time.
    for _ in 0..5 {
        world.play().await;
        world.pass(std::time::Duration::from_secs(2)).await;
    }
    assert_eq!(world.phase("r1"), RunPhase::Running, "{:#?}", world.status("r1"));
    assert_eq!(world.pods().len(), 2);
    world.exit("r1-worker-0", 0);
    for _ in 0..5 {
        world.play().await;
        world.pass(std::time::Duration::from_secs(2)).await;
    }
    assert_eq!((world.phase("r1"), world.phase("r2")), (RunPhase::Completed, RunPhase::Running));
    assert_eq!(world.status("r1").attempts.len(), 1);
    world.assert_nothing_held("r1");
}

/// The process stands still before or after each request of a start, while its Run is cancelled and another process
/// takes over and ends it. Then it wakes up.
#[rstest]
#[case(Matching::any().agent("sleeper").verb(Verb::Patch).resource("runs/status"))]
#[case(Matching::any().agent("sleeper").verb(Verb::Create).resource("services"))]
#[case(Matching::any().agent("sleeper").verb(Verb::Create).resource("pods"))]
#[case(Matching::any().agent("sleeper").verb(Verb::Get).resource("clusternodes"))]
#[case(Matching::any().agent("sleeper").verb(Verb::Patch).resource("pods"))]
#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_late_only_makes_pods_no_scheduler_places(
    #[case] step: Matching,
    #[values(When::Before, When::After)] when: When,
) {
    let world = World::with_nodes(2);
    let sleeper = world.start("sleeper");
    world.submit("r1", &json!({"nodeCount": 2}));
    world.settle().await;
    assert_eq!(world.phase("r1"), RunPhase::Queued);
    let gate = world.server.pause(step, when);
    world.cluster_turn();
    world.settle().await;
    gate.reached().await;

    world.edit_run("r1", |run| run.spec.cancel = true);
    let _other = world.start("other");
    for _ in 0..4 {
        world.play().await;
        world.pass(std::time::Duration::from_secs(1)).await;
    }
    // While the sleeper holds one request, the other process has ended the attempt and freed the nodes.
    assert_eq!(world.phase("r1"), RunPhase::Canceled, "{:#?}", world.status("r1"));
    gate.release();
    // Nothing may run, not even for a moment: the kubelets have no turn here.
    for _ in 0..3 {
        world.settle().await;
        assert!(gates(&world).iter().all(|gated| *gated), "{:#?}", world.pods());
    }
    world.pass(std::time::Duration::from_secs(15)).await;
    world.play().await;
    assert_eq!(world.phase("r1"), RunPhase::Canceled);
    assert_eq!(world.pod_names(), Vec::<String>::new());
    assert_eq!(world.status("r1").attempts.len(), 1);
    world.assert_nothing_held("r1");
    drop(sleeper);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_its_claim_on_every_node_is_not_launched() {
    let world = World::with_nodes(2);
    let _process = world.start("one");
    world.submit("r1", &json!({"nodeCount": 2}));
    world.settle().await;
    world.claim("r1", 1, "n0");
    world.commit("r1", 1, &["n0", "n1"]);
    world.settle().await;
    let attempt = world.last_attempt("r1");
    assert_eq!((attempt.number, attempt.launched), (1, None));
    world.direct("r1", DirectiveKind::Stop, DirectiveReason::Withdrawn);
    world.settle().await;
    let attempt = world.last_attempt("r1");
    assert_eq!((attempt.cause, attempt.pods_gone), (Some(AttemptCause::NotStarted), true));
    assert_eq!(world.phase("r1"), RunPhase::Queued);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_dropped_after_the_pods_were_made_stops_the_launch() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    let gate = world.server.pause(Matching::any().verb(Verb::Create).resource("pods"), When::After);
    world.allocate("r1", &["n0"]);
    world.settle().await;
    gate.reached().await;
    world.edit_node("n0", |node| node.spec.claims.clear());
    gate.release();
    world.settle().await;
    assert_eq!(world.last_attempt("r1").launched, None);
    assert_eq!(gates(&world), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_another_machine_by_now_is_not_used() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    world.claim("r1", 1, "n0");
    world.commit("r1", 1, &["n0"]);
    world.edit_node("n0", |node| {
        if let Some(status) = &mut node.status {
            status.node_uid = Some("another-uid".into());
        }
    });
    world.settle().await;
    assert_eq!(world.cause("r1"), Some(AttemptCause::NotStarted));
    assert!(world.pods().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_vanishes_before_the_launch_is_made_again_and_after_it_is_a_lost_member() {
    let world = World::with_nodes(1);
    let _process = world.start("one");
    world.submit("r1", &json!({}));
    world.settle().await;
    // Held before the launch: the claim is missing.
    world.commit("r1", 1, &["n0"]);
    world.claim("r1", 1, "n0");
    let gate = world.server.pause(Matching::any().verb(Verb::Get).resource("clusternodes"), When::Before);
    world.settle().await;
    gate.reached().await;
    assert_eq!(world.pods().len(), 1);
    world.server.remove::<k8s_openapi::api::core::v1::Pod>("ml", "r1-worker-0");
    gate.release();
    world.pass(std::time::Duration::from_secs(15)).await;
    world.play().await;
    let status = world.status("r1");
    // Removed between its creation and the launch, unseen: after the launch that is a lost member.
    assert_eq!(status.phase, Some(RunPhase::Running), "{status:#?}");
    assert!(status.attempts.iter().all(|one| matches!(one.cause, None | Some(AttemptCause::Infrastructure))));
}
