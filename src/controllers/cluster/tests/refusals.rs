//! Runs whose status the API server does not let the operator write, all of it or their allocation alone.

use std::time::Duration;

use rstest::rstest;
use trainyard_api::ClusterNode;
use trainyard_api::run_status::{AttemptCause, RunPhase};
use trainyard_fake_apiserver::{Fault, Matching};

use super::world::{Process, World, phase};

fn causes(world: &World, run: &str) -> Vec<AttemptCause> {
    world.status(run).attempts.iter().filter_map(|attempt| attempt.cause).collect()
}

/// Turns until this Run has ended well.
async fn until_completed(world: &World, run: &str) {
    for _ in 0..60 {
        world.turn().await;
        if world.status(run).phase == Some(RunPhase::Completed) {
            return;
        }
    }
    panic!("{run} does not come to its end: {}", world.shown());
}

/// How often a node was claimed for this Run, in all that was ever written.
fn claimings(world: &World, run: &str) -> usize {
    let claims = |node: Option<serde_json::Value>| {
        let node = node.filter(|node| node["kind"] == "ClusterNode")?;
        let node: ClusterNode = serde_json::from_value(node).expect("a stored object decodes");
        Some(node.spec.claims.into_iter().filter(|claim| claim.run_name == run).count())
    };
    let changes = world.server.changes().into_iter();
    changes
        .filter(|(before, after)| claims(before.clone()).unwrap_or(0) < claims(after.clone()).unwrap_or(0))
        .count()
}

fn is_held_by(world: &World, run: &str) -> bool {
    world.nodes().iter().any(|node| node.spec.claims.iter().any(|claim| claim.run_name == run))
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_status_nobody_may_write_keeps_no_other_run_waiting() {
    let world = World::new();
    let _operator = world.start("a");
    world.submit_urgent("barred", 1);
    let barred = Matching::writes().resource("runs/status").name("barred").agent("a");
    world.server.fail(barred, Fault::ForbiddenBecause("a policy says no".into()));
    world.submit("r1", 2);
    for _ in 0..60 {
        world.turn().await;
        if world.status("r1").phase == Some(RunPhase::Completed) {
            break;
        }
    }
    assert_eq!(world.status("r1").phase, Some(RunPhase::Completed), "{}", world.shown());
    assert_eq!(world.status("barred").phase, Some(RunPhase::Queued));
    // In its name no machine is asked for, however long it stays.
    tokio::time::sleep(Duration::from_mins(20)).await;
    world.turns(30).await;
    assert_eq!(world.cluster().status.unwrap_or_default().last_node_ordinal, 2, "{}", world.shown());
    assert!(world.nodes().is_empty(), "{}", world.shown());

    starts_once_it_is_healed(&world).await;
}

/// Whoever refuses refuses no more: the run starts, and succeeds at its first attempt.
async fn starts_once_it_is_healed(world: &World) {
    world.server.heal();
    tokio::time::sleep(Duration::from_mins(5)).await;
    world.until_done().await;
    assert_eq!(causes(world, "barred"), [AttemptCause::Succeeded]);
}

/// A world with two idle nodes, and `barred`, the first in the queue, about to be given them: the first that is ever written of
/// it is its allocation.
async fn about_to_be_refused(on: Matching, fault: Fault) -> (World, Process) {
    let world = World::new();
    let operator = world.start("a");
    world.submit("warm", 2);
    world.until_done().await;
    world.turn().await;
    world.server.fail(on.resource("runs/status").name("barred").agent("a"), fault);
    world.submit_urgent("barred", 2);
    world.turn().await;
    (world, operator)
}

#[rstest]
#[case::by_a_policy(Fault::ForbiddenBecause("a policy says no".into()))]
#[case::by_a_schema(Fault::Invalid("status.attempts: too many".into()))]
#[case::by_a_webhook_that_does_not_answer(Fault::InternalErrorBecause("failed calling webhook \"x\"".into()))]
#[tokio::test(start_paused = true)]
async fn a_run_whose_allocation_is_the_first_that_is_refused_gives_its_machines_back(#[case] fault: Fault) {
    let (world, _operator) = about_to_be_refused(Matching::writes(), fault).await;
    world.submit("r1", 2);
    until_completed(&world, "r1").await;
    assert_eq!(claimings(&world, "barred"), 2, "on each node once");
    // Its own time to be tried again comes and goes, and no machine is kept or bought for it.
    world.until_empty_but("barred").await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    world.turns(10).await;
    assert!(world.nodes().is_empty() && claimings(&world, "barred") == 2, "{}", world.shown());
    assert_eq!(world.cluster().status.unwrap_or_default().last_node_ordinal, 2);

    starts_once_it_is_healed(&world).await;
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_of_which_only_the_allocation_is_refused_is_not_given_machines_again_and_again() {
    let allocations = Matching::writes().manager("trainyard-run-allocation");
    let (world, _operator) = about_to_be_refused(allocations, Fault::ForbiddenBecause("no".into())).await;
    world.submit("r1", 2);
    until_completed(&world, "r1").await;
    world.until_empty_but("barred").await;
    world.server.forget_requests();
    tokio::time::sleep(Duration::from_hours(1)).await;
    world.turns(10).await;
    assert!(world.nodes().is_empty(), "{}", world.shown());
    assert_eq!(
        (claimings(&world, "barred"), world.cluster().status.unwrap_or_default().last_node_ordinal),
        (2, 2)
    );
    let asked =
        world.server.count(&Matching::writes().resource("runs/status").name("barred").rehearsal(true));
    assert!((8..=20).contains(&asked), "asked {asked} times in an hour");

    starts_once_it_is_healed(&world).await;
    world.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_refused_after_a_restart_gives_its_machines_back_too() {
    let (world, operator) = about_to_be_refused(Matching::writes(), Fault::Hang).await;
    assert!(is_held_by(&world, "barred"), "{}", world.shown());
    drop(operator);
    let barred = Matching::writes().resource("runs/status").name("barred").agent("b");
    world.server.fail(barred, Fault::ForbiddenBecause("a policy says no".into()));
    let _operator = world.start("b");
    world.submit("r1", 2);
    until_completed(&world, "r1").await;
    assert!(!is_held_by(&world, "barred") && world.runs().iter().any(|run| phase(run) == RunPhase::Queued));
}
