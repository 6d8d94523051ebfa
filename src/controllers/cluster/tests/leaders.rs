//! Two operators act at once, one of them paused for a while before or after one of its writes, while its caches are
//! kept fresh or frozen.

use std::time::Duration;

use trainyard_api::run_status::RunPhase;
use trainyard_fake_apiserver::{Fault, Gate, Matching, Verb, When};

use super::world::World;

/// How long the paused operator sleeps.
#[derive(Clone, Copy, Debug)]
enum Sleeps {
    /// Some turns.
    Shortly,
    /// Until everything is over.
    ToTheEnd,
}

/// Plays a story with operator `a` held at its `nth` write. Returns the world, and whether there was such a write.
async fn story(nth: usize, when: When, sleeps: Sleeps) -> (World, bool) {
    let world = World::with_max_nodes(3);
    let _a = world.start("a");
    let mut held = None;
    let (mut passed, mut turns) = (0, 0);
    world.submit("r1", 2);
    world.submit("r2", 2);
    let own = || Matching::writes().agent("a");
    let mut gate = world.server.pause(own(), when);
    loop {
        tokio::select! {
            biased;
            () = gate.reached() => {
                passed += 1;
                if passed == nth {
                    held = Some(gate);
                    break;
                }
                let next = world.server.pause(own(), when);
                gate.release();
                gate = next;
            }
            () = world.turn() => {
                turns += 1;
                if world.is_over() {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                if turns > 60 || (world.is_over() && world.nodes().is_empty()) {
                    gate.release();
                    break;
                }
            }
        }
    }
    let reached = held.is_some();
    let _b = world.start("b");
    if let Some(gate) = held {
        match sleeps {
            Sleeps::Shortly => world.turns(7).await,
            Sleeps::ToTheEnd => {
                world.until_done().await;
                world.until_empty().await;
            }
        }
        gate.release();
    }
    world.until_done().await;
    world.until_empty().await;
    (world, reached)
}

async fn pause_around_every_write(when: When, sleeps: Sleeps) {
    for nth in 1.. {
        let (world, reached) = story(nth, when, sleeps).await;
        world.assert_all_completed(3);
        if !reached {
            assert!(nth > 20, "a story has more than {nth} writes");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_before_a_write_while_another_acts_breaks_nothing() {
    pause_around_every_write(When::Before, Sleeps::Shortly).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_after_a_write_while_another_acts_breaks_nothing() {
    pause_around_every_write(When::After, Sleeps::Shortly).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_when_all_is_over_breaks_nothing() {
    pause_around_every_write(When::Before, Sleeps::ToTheEnd).await;
}

/// A world with so many idle nodes, and operator `a` about to write the allocation of `r1` on all of them.
async fn about_to_allocate(nodes: i32) -> (World, super::world::Process, Gate) {
    let mut world = World::new();
    world.work = 6;
    let a = world.start("a");
    world.submit("warm", nodes);
    world.until_done().await;
    world.turn().await;
    let commit = Matching::writes().agent("a").resource("runs/status").name("r1");
    let gate = world.server.pause(commit, When::Before);
    world.submit("r1", nodes);
    world.turn().await;
    tokio::time::timeout(Duration::from_secs(5), gate.reached()).await.expect("the nodes are claimed for r1");
    assert!(world.nodes().iter().all(|node| node.spec.claims.len() == 1), "{}", world.shown());
    (world, a, gate)
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_not_taken_from_an_allocation_that_is_written_meanwhile() {
    let (world, _a, commit) = about_to_allocate(1).await;
    // Another operator wants the nodes for somebody else. It has read that r1 has no allocation, and sleeps.
    world.submit_urgent("urgent", 1);
    world.runs_turn();
    let dropping = world.server.pause(Matching::writes().agent("b"), When::Before);
    let _b = world.start("b");
    tokio::time::timeout(Duration::from_secs(5), dropping.reached())
        .await
        .expect("b wants to take the claim");
    commit.release();
    world.turns(3).await;
    assert!(
        world.status("r1").attempts.iter().any(|attempt| attempt.launched.is_some()),
        "{}",
        world.shown()
    );
    dropping.release();
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(1);
}

#[tokio::test(start_paused = true)]
async fn an_allocation_is_not_written_when_its_claims_were_taken_meanwhile() {
    let (world, _a, commit) = about_to_allocate(2).await;
    world.submit_urgent("urgent", 2);
    world.runs_turn();
    let _b = world.start("b");
    world.turns(2).await;
    assert!(world.status("urgent").allocation.is_some(), "{}", world.shown());
    commit.release();
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(2);
}

/// Operator `b`, which may not write the status of `r1` and so cannot use up the number of its attempt, about to mark the claim
/// that it wants for somebody else.
async fn about_to_take_back(world: &World) -> (super::world::Process, Gate) {
    let barred = Matching::writes().agent("b").resource("runs/status").name("r1");
    world.server.fail(barred, Fault::ForbiddenBecause("a policy says no".into()));
    world.submit_urgent("urgent", 1);
    world.runs_turn();
    let marking = world.server.pause(Matching::writes().agent("b").resource("clusternodes"), When::Before);
    let b = world.start("b");
    tokio::time::timeout(Duration::from_secs(5), marking.reached()).await.expect("b wants to take the claim");
    (b, marking)
}

#[tokio::test(start_paused = true)]
async fn an_allocation_that_is_written_after_its_claim_was_taken_back_launches_nothing_there() {
    let (world, _a, commit) = about_to_allocate(1).await;
    let (_b, marking) = about_to_take_back(&world).await;
    marking.release();
    world.turns(2).await;
    assert!(world.status("urgent").allocation.is_some(), "{}", world.shown());
    assert!(world.status("r1").allocation.is_none(), "{}", world.shown());
    commit.release();
    world.turns(2).await;
    assert!(world.status("r1").allocation.is_some(), "{}", world.shown());
    world.server.heal();
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(3);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_being_taken_back_returns_to_an_allocation_that_came_first() {
    let (world, _a, commit) = about_to_allocate(1).await;
    let (_b, marking) = about_to_take_back(&world).await;
    commit.release();
    world.turns(3).await;
    let is_launched =
        |world: &World| world.status("r1").attempts.iter().any(|attempt| attempt.launched.is_some());
    assert!(is_launched(&world), "{}", world.shown());
    marking.release();
    world.settle().await;
    let is_its = |claim: &trainyard_api::cluster_node::Claim| claim.run_name == "r1" && claim.attempt == 1;
    assert!(world.nodes().iter().any(|node| node.spec.claims.iter().any(is_its)), "{}", world.shown());
    world.server.heal();
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_half_taken_back_when_its_operator_died_is_taken_back_by_the_next() {
    let (world, a, _commit) = about_to_allocate(1).await;
    let (b, marking) = about_to_take_back(&world).await;
    drop(a);
    let dropping = world.server.pause(Matching::writes().agent("b").resource("clusternodes"), When::Before);
    marking.release();
    tokio::time::timeout(Duration::from_secs(5), dropping.reached())
        .await
        .expect("b wants to drop the claim");
    drop(b);
    let is_marked = |claim: &trainyard_api::cluster_node::Claim| claim.run_name == "r1" && claim.attempt == 0;
    assert!(world.nodes().iter().any(|node| node.spec.claims.iter().any(is_marked)), "{}", world.shown());
    world.server.heal();
    let _c = world.start("c");
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(1);
}

#[tokio::test(start_paused = true)]
async fn a_run_suspended_between_its_claims_and_its_allocation_gives_its_nodes_back() {
    let (world, _a, commit) = about_to_allocate(2).await;
    world.edit_run("r1", |run| run.spec.suspend = true);
    let _b = world.start("b");
    world.turns(4).await;
    assert!(world.nodes().iter().all(|node| node.spec.claims.is_empty()), "{}", world.shown());
    world.edit_run("r1", |run| run.spec.suspend = false);
    world.turn().await;
    commit.release();
    world.until_done().await;
    world.until_empty().await;
    world.assert_all_completed(2);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_watches_are_dead_breaks_nothing() {
    for dead_from in 0..14 {
        let world = World::new();
        let (_a, _b) = (world.start("a"), world.start("b"));
        for (name, nodes) in [("r1", 2), ("r2", 3), ("r3", 1)] {
            world.submit(name, nodes);
        }
        world.turns(dead_from).await;
        world.server.fail(Matching::any().verb(Verb::Watch).agent("b"), Fault::InternalError);
        world.server.cut_watches();
        world.turns(10).await;
        world.server.heal();
        world.until_done().await;
        world.until_empty().await;
        // What is claimed and withdrawn in between costs numbers of attempts, never a start.
        world.assert_all_completed(10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_a_cache_has_not_seen_yet_is_not_taken_for_lost() {
    let mut world = World::new();
    world.work = 30;
    // Its list of nodes is of a time before there were any, and what came since does not reach it.
    let of_late = |verb| Matching::any().verb(verb).resource("clusternodes").agent("late");
    let listed = world.server.pause(of_late(Verb::List), When::After);
    let watched = world.server.pause(of_late(Verb::Watch), When::Before);
    let _late = world.start("late");
    listed.reached().await;
    let first = world.start("a");
    world.submit("r1", 2);
    world.turns(6).await;
    assert_eq!(world.status("r1").phase, Some(RunPhase::Running), "{}", world.shown());
    drop(first);

    listed.release();
    watched.reached().await;
    world.settle().await;
    let allocation = world.status("r1").allocation.expect("it has nodes");
    assert_eq!(allocation.directive, None, "{}", world.shown());
    assert_eq!(world.nodes().len(), 2);
    watched.release();
    world.until_done().await;
    world.assert_all_completed(1);
}
